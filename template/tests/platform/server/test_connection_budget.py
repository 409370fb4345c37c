"""The connection budget counts what Postgres keeps for others."""

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.platform.server.checks import CONNECTION_LIMIT
from app.settings import Settings
from tests.conftest import open_connection

FUNCTION = (
    "CREATE FUNCTION pg_temp.current_setting({}) RETURNS text LANGUAGE sql AS"
    " $$ SELECT CASE $1 {} END $$"
)


@pytest.mark.parametrize(("reserved", "limit"), [("'10'", 87), ("NULL", 97)])
async def test_the_limit_is_without_reserved_connections(
    settings: Settings, reserved: str, limit: int
) -> None:
    """`reserved_connections` exists from Postgres 16 on, and managed services set it."""
    required = "WHEN 'max_connections' THEN '100' WHEN 'superuser_reserved_connections' THEN '3'"
    optional = f"WHEN 'reserved_connections' THEN {reserved}"
    qualified = CONNECTION_LIMIT.text.replace("current_setting", "pg_temp.current_setting")
    url = make_url(settings.database_url.get_secret_value())
    async with open_connection(url) as connection:
        await connection.execute(text("SET TRANSACTION READ WRITE"))
        await connection.execute(text(FUNCTION.format("text", required)))
        await connection.execute(text(FUNCTION.format("text, boolean", optional)))
        assert await connection.scalar(text(qualified)) == limit
