"""A migration that changes a column's type while requests use it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import Integer, literal_column, select, text
from sqlalchemy.engine import make_url

from app.platform.data.database import ReadSessionDep, SessionDep
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform

VALUE = select(literal_column("value", Integer)).select_from(text("changing_of_a_test"))


@pytest.fixture
async def app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with one connection, and routes that read and write a table ``changing_of_a_test``."""

    async def read(session: ReadSessionDep) -> int:
        row = await session.first(VALUE)
        return row[0] if row else 0

    async def write(session: SessionDep) -> int:
        return (
            await session.scalar(text("UPDATE changing_of_a_test SET value = 2 RETURNING value"))
            or 0
        )

    async def read_in_transaction(session: SessionDep) -> int:
        return await session.scalar(VALUE) or 0

    async with running_platform(module_settings.model_copy(update={"db_pool_size": 1})) as app:
        app.add_api_route("/read", read)
        app.add_api_route("/write", write, methods=["POST"])
        app.add_api_route("/transaction", read_in_transaction)
        async with app.state.db.transaction() as session:
            await session.execute(text("CREATE TABLE changing_of_a_test (value integer)"))
            await session.execute(text("INSERT INTO changing_of_a_test VALUES (1)"))
        yield app
        async with app.state.db.transaction() as session:
            await session.execute(text("DROP TABLE changing_of_a_test"))


async def migrate(settings: Settings) -> None:
    async with open_connection(make_url(settings.database_url.get_secret_value())) as connection:
        await connection.execute(
            text("ALTER TABLE changing_of_a_test ALTER COLUMN value TYPE bigint")
        )
        await connection.commit()


@pytest.mark.parametrize("uses", [1, 3])  # the third one runs on the driver's connection
async def test_a_read_is_repeated_once(app: FastAPI, module_settings: Settings, uses: int) -> None:
    async with client_for(app) as client:
        for _ in range(uses):
            assert (await client.get("/read")).json() == 1
        await migrate(module_settings)
        response = await client.get("/read")
    assert (response.status_code, response.json()) == (200, 1)


@pytest.mark.parametrize(("method", "path"), [("POST", "/write"), ("GET", "/transaction")])
async def test_a_transaction_is_unavailable_once(
    app: FastAPI, module_settings: Settings, method: str, path: str
) -> None:
    async with client_for(app) as client:
        assert (await client.request(method, path)).status_code == 200
        await migrate(module_settings)
        response = await client.request(method, path)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert response.headers["Retry-After"] == "1"
        assert (await client.request(method, path)).status_code == 200
