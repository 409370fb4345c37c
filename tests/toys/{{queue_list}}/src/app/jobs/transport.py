"""A list in Redis as the carrier of job ids."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from app import about
from app.jobs.worker import Worker
from app.settings import Settings

QUEUE = f"{about.NAME}.jobs"
WAIT = 1.0  # seconds


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._redis: Redis = app.state.redis

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        await self._redis.rpush(QUEUE, *map(str, ids))

    async def depth(self) -> int:
        """Return how many jobs wait for a worker."""
        return int(await self._redis.llen(QUEUE))


def run_worker(settings: Settings) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.jobs import worker

    return worker.run(settings, consume)


async def consume(settings: Settings, worker: Worker) -> None:
    """Take jobs until the worker stops; raise when Redis does not answer."""
    url = settings.redis_url.get_secret_value()
    client = Redis.from_url(url, socket_timeout=2 * WAIT, decode_responses=True)
    async with client as redis, asyncio.TaskGroup() as lanes:
        for _ in range(worker.concurrency):
            lanes.create_task(_lane(redis, worker))


async def _lane(redis: Redis, worker: Worker) -> None:
    while not worker.stopping.is_set():
        if taken := await redis.blpop([QUEUE], timeout=WAIT):
            await worker.run(taken[1])
