"""COPY is part of the transaction; a part of a transaction is undone as a whole."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import JSON, Column, DateTime, Integer, MetaData, String, Table, Uuid, func, select
from sqlalchemy import Enum as EnumType
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.platform.base.errors import Conflict, DatabaseUnavailable
from app.platform.data.bulk import COPY_CHUNK, Statement, copy_rows, open_cursor
from app.platform.data.database import Database, TransactionEnded, on_commit
from app.settings import Settings
from tests.conftest import running_platform


class Grade(Enum):
    A = "a"


METADATA = MetaData()
GOODS = Table(
    "goods_of_a_test",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("name", String(20), nullable=False),
    Column("tags", JSON),
    Column("grade", EnumType(Grade)),
    Column("made_at", DateTime(timezone=True), server_default=func.now()),
    Column("number", Integer),
)
COUNT = select(func.count()).select_from(GOODS)


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with a single connection and an empty table."""
    changes = {"db_pool_size": 1, "db_max_overflow": 0}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        async with app.state.db.engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        yield app
        async with app.state.db.engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
        assert app.state.db.used == 0


@pytest.fixture
def database(service: FastAPI) -> Database:
    database: Database = service.state.db
    return database


async def count(database: Database) -> int:
    async with database.transaction() as session:
        return int(await session.scalar(COUNT) or 0)


def rows(number: int) -> Iterator[list[object]]:
    return ([uuid4(), f"good {n}"] for n in range(number))


async def test_copied_rows_are_committed_with_the_transaction(database: Database) -> None:
    async with database.transaction() as session:
        copied = await copy_rows(session, GOODS, ["id", "name"], rows(COPY_CHUNK + 5))
    assert copied == COPY_CHUNK + 5 == await count(database)


async def test_copied_rows_are_rolled_back_with_the_transaction(database: Database) -> None:
    """COPY as the first statement would be a transaction of its own."""
    with suppress(Conflict):
        async with database.transaction() as session:
            await copy_rows(session, GOODS, ["id", "name"], rows(3))
            raise Conflict("It is taken.")
    assert await count(database) == 0


async def test_values_are_stored_as_an_insert_would_store_them(database: Database) -> None:
    made_at = datetime(2026, 1, 2, tzinfo=UTC)
    values = [uuid4(), "anchor", {"a": [1]}, Grade.A, made_at, None]
    async with database.transaction() as session:
        columns = [column.name for column in GOODS.columns]
        await copy_rows(session, GOODS, columns, [values])
        assert list((await session.execute(select(GOODS))).one()) == values


async def test_errors_are_those_of_an_insert(database: Database) -> None:
    good = uuid4()
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await copy_rows(session, GOODS, ["id", "name"], [(good, "a"), (good, "b")])
    assert await count(database) == 0  # with the same connection, which is still usable


async def test_a_session_that_has_ended_copies_nothing(database: Database) -> None:
    async with database.transaction() as session:
        pass
    with pytest.raises(TransactionEnded):
        await copy_rows(session, GOODS, ["id", "name"], rows(1))


async def test_a_part_that_fails_leaves_neither_changes_nor_callbacks(database: Database) -> None:
    ran: list[str] = []

    async def kept() -> None:
        ran.append("kept")

    async def undone() -> None:
        ran.append("undone")

    async with database.transaction() as session:
        async with session.begin_nested():
            on_commit(session, kept)
            await copy_rows(session, GOODS, ["id", "name"], rows(1))
        with suppress(Conflict):
            async with session.begin_nested():
                on_commit(session, undone)
                await copy_rows(session, GOODS, ["id", "name"], rows(1))
                raise Conflict("It is taken.")
    assert (ran, await count(database)) == (["kept"], 1)


async def test_a_cursor_can_not_write(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE numbers_of_a_test")
    statement = select(func.nextval("numbers_of_a_test"))
    async with database.transaction() as session:
        await session.execute(statement)
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await fetch(database, statement)


async def test_an_outage_during_a_fetch_is_an_outage(database: Database) -> None:
    me = func.pg_terminate_backend(func.pg_backend_pid())
    with pytest.raises((DBAPIError, DatabaseUnavailable)) as error:
        await fetch(database, select(me))
    assert isinstance(error.value, DatabaseUnavailable) or error.value.connection_invalidated
    assert await count(database) == 0  # with a new connection


async def fetch(database: Database, statement: Statement) -> None:
    try:
        async with open_cursor(database, statement, {}) as cursor:
            await cursor.fetch()
    finally:
        assert database.used == 0
