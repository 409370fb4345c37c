"""A list in Redis whose messages wake workers."""

from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.names import QUEUE
from app.platform.settings import PlatformSettings


class Transport:
    """Publishes job ids from an event loop. ``full``: the queue was, at the last look."""

    full = False

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis

    async def publish(self, job_id: UUID) -> None:
        """Wake one worker; raises if Redis is unavailable."""
        await self._redis.rpush(QUEUE, str(job_id))

    async def depth(self) -> int:
        """Number of messages that wait for a worker."""
        return int(await self._redis.llen(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import list_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, list_worker.consume)
