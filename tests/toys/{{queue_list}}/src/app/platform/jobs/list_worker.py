"""List consumer: woken by messages, one at a time."""

from redis.asyncio import Redis

from app.platform.jobs.names import QUEUE
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

WAIT = 1.0  # seconds


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Receive messages until the worker stops; raises if Redis is unavailable."""
    url = settings.redis_url.get_secret_value()
    client = Redis.from_url(url, socket_timeout=2 * WAIT, decode_responses=True)
    async with client as redis:
        while not worker.stopping.is_set():
            if await redis.blpop([QUEUE], timeout=WAIT):
                await worker.consumer.drain()
