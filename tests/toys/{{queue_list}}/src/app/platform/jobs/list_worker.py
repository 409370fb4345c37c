"""How a worker takes job ids from the list."""

import asyncio

from redis.asyncio import Redis

from app.platform.jobs.names import QUEUE
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

WAIT = 1.0  # seconds


async def consume(settings: PlatformSettings, worker: Worker) -> None:
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
