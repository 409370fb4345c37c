"""TaskIQ as the carrier of job ids, on a Redis Stream: how they are published, and the worker.

TaskIQ carries, and no more: retries, time limits, results and schedules are the ledger's.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID, uuid4

from fastapi import FastAPI
from redis.asyncio import Redis
from taskiq import TaskiqMessage
from taskiq_redis import RedisStreamBroker

from app.platform.base import about
from app.platform.base.components import AppFactory
from app.platform.settings import PlatformSettings

QUEUE = f"{about.NAME}.jobs"
TASK = "app.jobs.run"
BLOCK = 2.0  # seconds that Redis waits for a message, until it is asked again


class Broker(RedisStreamBroker):
    """A stream that holds only what waits or is worked on: what is done is deleted from it."""

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            async with Redis(connection_pool=self.connection_pool).pipeline() as pipe:
                pipe.xack(queue_name, self.consumer_group_name, id)
                pipe.xdel(queue_name, id)
                await pipe.execute()

        return ack


def create_broker(settings: PlatformSettings) -> Broker:
    """Make the broker. It connects when it is first used."""
    return Broker(
        settings.redis_url.get_secret_value(),
        queue_name=QUEUE,
        consumer_group_name=QUEUE,
        consumer_id="0",  # from the first message on, and not from when the first worker starts
        xread_block=int(BLOCK * 1000),
        xread_count=1,  # nobody takes more than there is room for
        # As long as a job is held by a worker that may be gone.
        idle_timeout=int(settings.jobs_lease * 1000),
        socket_timeout=BLOCK + settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    )


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        self._broker = create_broker(settings)
        self._broker.connection_pool = self._redis.connection_pool

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        for job_id in ids:
            message = TaskiqMessage(
                task_id=uuid4().hex, task_name=TASK, labels={}, args=[str(job_id)], kwargs={}
            )
            await self._broker.kick(self._broker.formatter.dumps(message))

    async def depth(self) -> int:
        """Return how many jobs wait for a worker, or are worked on."""
        return int(await self._redis.xlen(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.platform.jobs import taskiq_worker, worker

    return worker.run(settings, create_app, taskiq_worker.consume)
