"""ARQ as the carrier of job ids: how they are published, and the worker that gets them.

ARQ carries, and no more: retries, time limits, results and schedules are the ledger's.
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

LIFE = 86_400  # seconds that a message is kept; the scheduler sends another one long before
SKEW = timedelta(days=1)  # that clocks may differ


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        # ARQ's default is pickle, which would run whatever somebody put into Redis.
        self._arq = ArqRedis(self._redis.connection_pool, job_serializer=orjson.dumps)

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        # A worker takes what is due by its own clock, which may be behind this one.
        due = datetime.now(UTC) - SKEW
        for job_id in ids:
            await self._arq.enqueue_job(
                TASK, str(job_id), _queue_name=QUEUE, _expires=LIFE, _defer_until=due
            )

    async def depth(self) -> int:
        """Return how many jobs wait for a worker."""
        return int(await self._redis.zcard(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.platform.jobs import arq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, arq_worker.consume)
