"""The client gets over what happens to its connections."""

from app.redis import create_client
from app.settings import Settings


async def test_a_connection_that_redis_has_closed_is_replaced(settings: Settings) -> None:
    async with create_client(settings) as client, create_client(settings) as other:
        connection = await client.client_id()
        await other.client_kill_filter(_id=connection)
        assert await client.client_id() != connection
