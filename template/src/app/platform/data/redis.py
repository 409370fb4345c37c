"""Redis: one client per process, with timeouts, for rate limits, caches and other volatile data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.platform.base.components import Lifespan
from app.platform.data.credentials import redis_login
from app.platform.observability import metrics, tracing
from app.platform.observability.telemetry import gauge
from app.platform.settings import PlatformSettings

POOL_SIZE = gauge("redis_pool_connections", "Maximum connections to Redis.")
POOL_USED = gauge("redis_pool_connections_used", "Connections to Redis in use.")


async def _client(request: Request) -> Redis:
    client: Redis = request.app.state.redis
    return client


RedisDep = Annotated[Redis, Depends(_client)]
# What a command raises when Redis is unavailable, too slow, or refuses it.
REDIS_ERRORS = (exceptions.RedisError, OSError, TimeoutError)


def create_client(settings: PlatformSettings, *, retries: int = 1) -> Redis:
    """A client that connects at first use. Waits up to ``redis_timeout`` for a free connection."""
    url, credentials = redis_login(settings.redis_url.get_secret_value())
    pool = BlockingConnectionPool.from_url(
        url,
        credential_provider=credentials,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        max_connections=settings.redis_max_connections,
        timeout=settings.redis_timeout,
        decode_responses=True,
        # One immediate retry on a new connection, after Redis has restarted or the server has
        # become a replica.
        retry=Retry(NoBackoff(), retries, (exceptions.ConnectionError, exceptions.ReadOnlyError)),
    )
    raise_connection_errors(pool)
    client: Redis = Redis.from_pool(pool)
    return client


class _ConnectionErrors(AbstractConnection):
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise exceptions.ConnectionError(str(error)) from error


def raise_connection_errors(pool: ConnectionPool) -> None:
    """Make a write to a connection that the server has closed raise ``ConnectionError``.

    uvloop raises ``RuntimeError`` there, which redis-py neither retries nor passes on as its own.
    """
    base = pool.connection_class
    pool.connection_class = type(base.__name__, (_ConnectionErrors, base), {})


def connections(client: Redis) -> tuple[int, int]:
    """The number of connections in use, and the maximum of the pool."""
    pool = client.connection_pool
    return len(pool._in_use_connections), pool.max_connections


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with create_client(settings) as client:
            app.state.redis = client
            tracing.instrument_redis(client)
            yield

    def sample() -> None:
        used, maximum = connections(app.state.redis)
        POOL_USED.set(used)
        POOL_SIZE.set(maximum)

    metrics.on_sample(app, sample)

    return lifespan
