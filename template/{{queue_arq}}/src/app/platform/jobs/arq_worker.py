"""ARQ consumer: receives job ids and runs the jobs."""

import asyncio
import logging
from typing import Any

import orjson
from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func

from app.platform.data.credentials import redis_login
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

POLL_INTERVAL = 0.1  # seconds; ARQ polls a sorted set

# Its two lines per job only repeat the runner's.
logging.getLogger("arq.worker").setLevel(logging.WARNING)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Receive jobs until the worker stops; raises if Redis is unavailable."""
    url, credentials = redis_login(settings.redis_url.get_secret_value())
    async with ArqRedis.from_url(
        url,
        credential_provider=credentials,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    ) as redis:
        arq = _create(redis, worker)
        receiving = asyncio.create_task(arq.main())
        try:
            await worker.wait_for_stop(receiving)
            arq.allow_pick_jobs = False
            await asyncio.gather(*arq.tasks.values(), return_exceptions=True)
        except UnicodeDecodeError:
            # ARQ would fail on this malformed message forever. The store still has every job.
            await redis.delete(QUEUE)
            raise
        finally:
            receiving.cancel()
            for task in (receiving, *arq.tasks.values()):
                task.add_done_callback(_retrieve_exception)


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    """Keep asyncio from logging an error of ARQ that did not affect the job, such as an outage."""
    if not task.cancelled():
        task.exception()


def _create(redis: ArqRedis, worker: Worker) -> ArqWorker:
    async def run_job(ctx: dict[Any, Any], *message: Any, **_: Any) -> None:
        # From here on, the store's lease protects the job. ARQ would keep the message in the
        # queue, counted in its depth and polled by every worker, until the job has finished.
        await redis.zrem(QUEUE, ctx["job_id"])
        await worker.run(*message[:1])

    return ArqWorker(
        [func(run_job, name=TASK)],
        redis_pool=redis,
        queue_name=QUEUE,
        max_jobs=worker.concurrency,
        poll_delay=POLL_INTERVAL,
        job_timeout=None,  # type: ignore[arg-type]  # the runner enforces timeouts
        keep_result=0,
        handle_signals=False,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
    )
