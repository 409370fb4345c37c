"""The Redis client replaces broken connections, and outages become 503 responses."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError, ReadOnlyError

from app.platform.data.redis import RedisDep, create_client
from app.platform.dev import servers
from app.settings import Settings
from tests.closing import resetting_server
from tests.conftest import client_for, running_platform


@pytest.fixture
def own_redis(settings: Settings) -> Iterator[Settings]:
    """Settings with a Redis server that belongs to the test."""
    with servers.redis() as url:
        yield settings.model_copy(update={"redis_url": SecretStr(url)})


async def test_a_closed_connection_is_replaced(settings: Settings) -> None:
    async with create_client(settings) as client, create_client(settings) as other:
        connection = await client.client_id()
        await other.client_kill_filter(_id=connection)
        assert await client.client_id() != connection


async def test_a_server_that_closes_each_connection_is_unavailable(settings: Settings) -> None:
    async with resetting_server() as url:
        changed = settings.model_copy(update={"redis_url": SecretStr(f"redis://{url}/0")})
        async with create_client(changed) as client:
            for _ in range(50):
                with pytest.raises(ConnectionError):
                    await client.ping()


async def test_a_connection_to_a_demoted_primary_is_replaced(own_redis: Settings) -> None:
    async with create_client(own_redis) as client:
        connection = await client.client_id()
        await client.replicaof("127.0.0.1", 1)
        with pytest.raises(ReadOnlyError):
            await client.set("key", "value")
        assert await client.client_id() != connection


@pytest.mark.parametrize(
    "command",
    [
        ("REPLICAOF", "127.0.0.1", "1"),
        ("CONFIG SET", "maxmemory", "1"),
        ("CONFIG SET", "min-replicas-to-write", "1"),
    ],
)
async def test_a_redis_that_rejects_writes_is_unavailable(
    own_redis: Settings, command: tuple[str, ...]
) -> None:
    async def write(redis: RedisDep) -> None:
        await redis.set("key", "value")

    async with running_platform(own_redis) as app, client_for(app) as client:
        app.add_api_route("/write", write)
        await app.state.redis.execute_command(*command)
        response = await client.get("/write")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


async def test_an_invalid_command_is_an_internal_error(settings: Settings) -> None:
    async def write(redis: RedisDep) -> None:
        await redis.execute_command("SET", "key")

    async with running_platform(settings) as app, client_for(app) as client:
        app.add_api_route("/write", write)
        assert (await client.get("/write")).status_code == 500
