"""The broker of TaskIQ: a Redis Stream."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from taskiq_redis import RedisStreamBroker

from app.platform.jobs.names import QUEUE
from app.platform.settings import PlatformSettings

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
