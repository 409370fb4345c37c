"""TaskIQ broker on a Redis Stream."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from taskiq_redis import RedisStreamBroker

from app.platform.data.credentials import redis_login
from app.platform.data.redis import raise_connection_errors
from app.platform.jobs.names import QUEUE
from app.platform.settings import PlatformSettings

BLOCK_SECONDS = 2.0  # how long XREADGROUP waits for a message


class Broker(RedisStreamBroker):
    """A stream broker that deletes acknowledged messages, so that the stream stays small."""

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            async with Redis(connection_pool=self.connection_pool).pipeline() as pipe:
                pipe.xack(queue_name, self.consumer_group_name, id)
                pipe.xdel(queue_name, id)
                await pipe.execute()

        return ack


def create_broker(settings: PlatformSettings) -> Broker:
    """A broker that connects at first use."""
    url, credentials = redis_login(settings.redis_url.get_secret_value())
    broker = Broker(
        url,
        credential_provider=credentials,
        queue_name=QUEUE,
        consumer_group_name=QUEUE,
        consumer_id="0",  # the first message, even if it was published before any worker started
        xread_block=int(BLOCK_SECONDS * 1000),
        xread_count=1,
        # After this, another worker takes over the message of a worker that has died.
        idle_timeout=int(settings.jobs_lease * 1000),
        socket_timeout=BLOCK_SECONDS + settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    )
    raise_connection_errors(broker.connection_pool)
    return broker
