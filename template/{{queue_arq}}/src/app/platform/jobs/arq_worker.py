"""How a worker takes job ids from ARQ."""

import asyncio
import logging
from typing import Any

import orjson
from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func

from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

POLL = 0.1  # seconds between two looks at the queue, which does not call

# Two lines for each job, which say less than the runner's one.
logging.getLogger("arq.worker").setLevel(logging.WARNING)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Take jobs until the worker stops; raise when Redis does not answer."""
    async with ArqRedis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    ) as redis:
        arq = _create(redis, worker)
        taking = asyncio.create_task(arq.main())
        try:
            await worker.stopped_or_raised(taking)
            arq.allow_pick_jobs = False
            await asyncio.gather(*arq.tasks.values(), return_exceptions=True)
        except UnicodeDecodeError:
            # A malformed message that ARQ would fail on again and again. The table has every job.
            await redis.delete(QUEUE)
            raise
        finally:
            taking.cancel()
            for task in (taking, *arq.tasks.values()):
                task.add_done_callback(_heed)


def _heed(task: "asyncio.Task[Any]") -> None:
    """Look at what was raised, or asyncio complains: ARQ lost Redis, and the job went on."""
    if not task.cancelled():
        task.exception()


def _create(redis: ArqRedis, worker: Worker) -> ArqWorker:
    async def run_job(ctx: dict[Any, Any], *message: Any, **_: Any) -> None:
        # The ledger's lease is the guarantee from here on. ARQ would leave the message where it
        # is, counted as waiting and looked at by every worker, until the job has ended.
        await redis.zrem(QUEUE, ctx["job_id"])
        await worker.run(*message[:1])

    return ArqWorker(
        [func(run_job, name=TASK)],
        redis_pool=redis,
        queue_name=QUEUE,
        max_jobs=worker.concurrency,
        poll_delay=POLL,
        job_timeout=None,  # type: ignore[arg-type]  # the runner ends a job in time
        keep_result=0,
        handle_signals=False,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
    )
