"""A list in Redis as the carrier of job ids."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.names import QUEUE
from app.platform.settings import PlatformSettings


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        await self._redis.rpush(QUEUE, *map(str, ids))

    async def depth(self) -> int:
        """Return how many jobs wait for a worker."""
        return int(await self._redis.llen(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.platform.jobs import list_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, list_worker.consume)
