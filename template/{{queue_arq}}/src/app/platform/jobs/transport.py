"""Transport of job ids over ARQ: publishing, and the worker that receives them.

ARQ's own retries, timeouts, results and schedules are not used; the job store provides them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
from arq.connections import ArqRedis
from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.names import QUEUE, TASK
from app.platform.settings import PlatformSettings

MESSAGE_TTL = 86_400  # seconds; the scheduler publishes the job again long before
MAX_CLOCK_SKEW = timedelta(days=1)


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        # ARQ's default is pickle, which would execute code from Redis.
        self._arq = ArqRedis(self._redis.connection_pool, job_serializer=orjson.dumps)

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Send job ids to the queue, each for one worker; raises if Redis is unavailable."""
        # A worker compares this with its own clock, which may be behind.
        due = datetime.now(UTC) - MAX_CLOCK_SKEW
        for job_id in ids:
            await self._arq.enqueue_job(
                TASK, str(job_id), _queue_name=QUEUE, _expires=MESSAGE_TTL, _defer_until=due
            )

    async def depth(self) -> int:
        """Number of jobs that wait for a worker."""
        return int(await self._redis.zcard(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import arq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, arq_worker.consume)
