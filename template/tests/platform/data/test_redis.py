"""The client gets over what happens to its connections."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis.exceptions import ReadOnlyError

from app.platform.data.redis import RedisDep, create_client
from app.platform.dev import servers
from app.settings import Settings
from tests.conftest import client_of, running


@pytest.fixture
def own_redis(settings: Settings) -> Iterator[Settings]:
    """Settings with a Redis that a test may do anything to."""
    with servers.redis() as url:
        yield settings.model_copy(update={"redis_url": SecretStr(url)})


async def test_a_connection_that_redis_has_closed_is_replaced(settings: Settings) -> None:
    async with create_client(settings) as client, create_client(settings) as other:
        connection = await client.client_id()
        await other.client_kill_filter(_id=connection)
        assert await client.client_id() != connection


async def test_a_connection_to_what_became_a_replica_is_replaced(own_redis: Settings) -> None:
    async with create_client(own_redis) as client:
        connection = await client.client_id()
        await client.replicaof("127.0.0.1", 1)
        with pytest.raises(ReadOnlyError):
            await client.set("key", "value")
        assert await client.client_id() != connection


@pytest.mark.parametrize(
    "how",
    [
        ("REPLICAOF", "127.0.0.1", "1"),
        ("CONFIG SET", "maxmemory", "1"),
        ("CONFIG SET", "min-replicas-to-write", "1"),
    ],
)
async def test_a_redis_that_takes_no_writes_is_said_to_be_away(
    own_redis: Settings, how: tuple[str, ...]
) -> None:
    async def remember(cache: RedisDep) -> None:
        await cache.set("key", "value")

    async with running(own_redis) as app, client_of(app) as client:
        app.add_api_route("/remember", remember)
        await app.state.redis.execute_command(*how)
        answer = await client.get("/remember")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_a_command_that_is_wrong_is_our_mistake(settings: Settings) -> None:
    async def remember(cache: RedisDep) -> None:
        await cache.execute_command("SET", "key")

    async with running(settings) as app, client_of(app) as client:
        app.add_api_route("/remember", remember)
        assert (await client.get("/remember")).status_code == 500
