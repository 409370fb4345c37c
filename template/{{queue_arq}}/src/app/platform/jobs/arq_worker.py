"""ARQ consumer: woken by ARQ's messages, one at a time."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, cast

import orjson
from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func

from app.platform.data.credentials import redis_login
from app.platform.data.redis import raise_connection_errors
from app.platform.jobs.arq_wakeups import WAKEUPS
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

POLL_INTERVAL = 1  # seconds between polls of ARQ, unless a message ends the pause

# Its two lines per job only repeat the runner's.
logging.getLogger("arq.worker").setLevel(logging.WARNING)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Receive messages until the worker stops; raises if Redis is unavailable."""
    url, credentials = redis_login(settings.redis_url.get_secret_value())
    async with ArqRedis.from_url(
        url,
        credential_provider=credentials,
        socket_timeout=POLL_INTERVAL + settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    ) as redis:
        raise_connection_errors(redis.connection_pool)
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


class _Worker(ArqWorker):
    """An ARQ worker that polls at once when a message is published."""

    async def _poll_iteration(self) -> None:
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=POLL_INTERVAL)
        else:
            await cast("Awaitable[Any]", self.pool.brpop([WAKEUPS], timeout=POLL_INTERVAL))
        await super()._poll_iteration()


def _create(redis: ArqRedis, worker: Worker) -> ArqWorker:
    async def run_job(ctx: dict[Any, Any], *_message: Any, **_: Any) -> None:
        # Before the jobs are claimed: those that are committed later send a message of their own.
        await redis.zrem(QUEUE, ctx["job_id"])
        await worker.consumer.drain()

    return _Worker(
        [func(run_job, name=TASK)],
        redis_pool=redis,
        queue_name=QUEUE,
        max_jobs=1,  # while this worker is full, messages are for others
        poll_delay=0,
        job_timeout=None,  # type: ignore[arg-type]  # the runner enforces timeouts
        keep_result=0,
        handle_signals=False,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
    )
