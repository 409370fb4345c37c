"""Transport over ARQ: messages that wake a worker, and the worker that they wake.

ARQ's own retries, timeouts, results and schedules are not used; the job store provides them.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
from arq.connections import ArqRedis
from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.arq_wakeups import MAX_WAKEUPS, WAKEUPS
from app.platform.jobs.names import QUEUE, TASK
from app.platform.settings import PlatformSettings

MESSAGE_TTL = 86_400  # seconds; the scheduler sends another one long before
MAX_CLOCK_SKEW = timedelta(days=1)


class Transport:
    """Publishes job ids from an event loop. ``full``: the queue was, at the last look."""

    full = False

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        # ARQ's default is pickle, which would execute code from Redis.
        self._arq = ArqRedis(self._redis.connection_pool, job_serializer=orjson.dumps)

    async def publish(self, job_id: UUID) -> None:
        """Wake one worker; raises if Redis is unavailable."""
        # A worker compares this with its own clock, which may be behind.
        due = datetime.now(UTC) - MAX_CLOCK_SKEW
        await self._arq.enqueue_job(
            TASK, str(job_id), _queue_name=QUEUE, _expires=MESSAGE_TTL, _defer_until=due
        )
        async with self._redis.pipeline() as pipe:
            pipe.lpush(WAKEUPS, "")
            pipe.ltrim(WAKEUPS, 0, MAX_WAKEUPS - 1)
            await pipe.execute()

    async def depth(self) -> int:
        """Number of messages that wait for a worker."""
        return int(await self._redis.zcard(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import arq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, arq_worker.consume)
