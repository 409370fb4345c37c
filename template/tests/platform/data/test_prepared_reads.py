"""Prepared reads do what SQLAlchemy does: the third use of a statement is like the first."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import (
    ARRAY,
    JSON,
    Interval,
    LargeBinary,
    Numeric,
    Select,
    String,
    Text,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    column,
    event,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy import (
    Enum as EnumType,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.util import greenlet_spawn

from app.platform.base.errors import DatabaseUnavailable
from app.platform.data import database, engine
from app.platform.data.database import Database, ReadSession, SessionDep
from app.platform.data.engine import create_engine
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform

Statement = Select[*tuple[Any, ...]]
PID: Statement = select(literal_column("pg_backend_pid()"))


class Colour(Enum):
    RED = 1


class Shouted(TypeDecorator[str]):
    """A type with conversions of its own."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return value and value.lower()

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        return value and value.upper()


VALUES: dict[str, tuple[Any, Any]] = {
    "text": (Text, "Anchor"),
    "uuid": (Uuid, UUID(int=7)),
    "timestamp": (None, datetime(2026, 1, 2, tzinfo=UTC)),
    "interval": (Interval, timedelta(hours=3)),
    "numeric": (Numeric(10, 2), Decimal("1.50")),
    "bytes": (LargeBinary, b"\0\1"),
    "json": (JSON, {"a": [1, None]}),
    "jsonb": (JSONB, {"a": [1, None]}),
    "array": (ARRAY(Text), ["a", "b"]),
    "enum": (EnumType(Colour, native_enum=False), Colour.RED),
    "address": (INET, "10.0.0.1"),
    "own type": (Shouted, "LOUD"),
    "null": (Text, None),
}


@pytest.fixture(scope="module", params=[0, 30], ids=["tested before use", "used lately"])
async def app(request: pytest.FixtureRequest, module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with one connection, which is tested before each use, or is not."""
    changes: dict[str, Any] = {
        "db_pool_size": 1,
        "db_max_overflow": 0,
        "db_ping_after_idle": request.param,
    }
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        yield app


@pytest.fixture
def reads(app: FastAPI) -> ReadSession:
    reads: ReadSession = app.state.read_session
    return reads


async def prepare(reads: ReadSession, statement: Statement, **values: Any) -> None:
    """Use a statement until its third use, which is prepared."""
    for _ in range(2):
        assert reads._database.prepared_reads.get(statement, values) is None
        await reads.all(statement, **values)
    assert reads._database.prepared_reads.get(statement, values)


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES.keys())
async def test_values_and_rows_are_converted(reads: ReadSession, kind: Any, value: Any) -> None:
    parameter = bindparam("value", type_=kind) if kind else bindparam("value", value)
    statement = select(cast(parameter, parameter.type).label("same"), literal(5).label("five"))
    expected = ip_address(value) if kind is INET else value
    first = await reads.first(statement, value=value)
    await reads.first(statement, value=value)
    prepared = await reads.all(statement, value=value)
    assert reads._database.prepared_reads.get(statement, {"value": value})
    assert first
    assert prepared == [first] == [(expected, 5)]
    assert type(prepared[0][0]) is type(first[0])
    assert prepared[0].same == prepared[0]._mapping["same"] == expected
    assert prepared[0]._asdict() == {"same": expected, "five": 5}


async def test_each_use_has_its_own_values(reads: ReadSession) -> None:
    n = func.generate_series(bindparam("first", 0), 9).column_valued("n")
    statement = select(n).order_by(n).limit(bindparam("limit"))
    await prepare(reads, statement, first=0, limit=3)
    assert [row.n for row in await reads.all(statement, first=2, limit=3)] == [2, 3, 4]
    assert await reads.first(statement, first=9, limit=3) == (9,)
    assert await reads.first(statement, first=10, limit=3) is None
    assert await reads.all(statement, limit=1) == [(0,)]  # the default of `first`


async def test_a_missing_value_is_named(reads: ReadSession) -> None:
    statement = select(bindparam("needed", type_=String))
    await prepare(reads, statement, needed="x")
    with pytest.raises(StatementError, match="needed"):
        await reads.first(statement)


async def test_a_statement_that_depends_on_its_values_is_not_prepared(reads: ReadSession) -> None:
    n = func.generate_series(1, 9).column_valued("n")
    statement = select(n).where(n.in_(bindparam("some", expanding=True)))
    for some in ([1], [1, 2], [1, 2, 3], []):
        assert len(await reads.all(statement, some=some)) == len(some)


async def test_statements_of_the_same_shape_keep_their_own_literals(reads: ReadSession) -> None:
    one, two = select(literal("one")), select(literal("two"))
    for _ in range(3):
        assert (await reads.first(one), await reads.first(two)) == (("one",), ("two",))


async def test_a_statement_that_is_dropped_is_forgotten(reads: ReadSession) -> None:
    # SQLAlchemy's cache keeps the first statement of each kind that it compiles.
    await reads.all(select(literal("kept")))
    statement = select(literal("dropped"))
    await prepare(reads, statement)
    reference = weakref.ref(statement)
    del statement
    gc.collect()
    assert reference() is None


async def test_a_read_leaves_no_transaction_open(
    reads: ReadSession, module_settings: Settings
) -> None:
    await prepare(reads, PID)
    row = await reads.first(PID)
    assert row
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    async with open_connection(make_url(module_settings.database_url.get_secret_value())) as admin:
        assert await admin.scalar(state, {"pid": row[0]}) == "idle"


async def test_reads_in_a_transaction_see_what_it_has_written(app: FastAPI) -> None:
    statement = select(column("body", Text)).select_from(text("drafts_of_a_test"))
    async with app.state.db.transaction() as session:
        await session.execute(text("CREATE TABLE drafts_of_a_test AS SELECT 'kept' AS body"))
    await prepare(app.state.read_session, statement)

    async def write(session: SessionDep) -> int:
        await session.execute(text("INSERT INTO drafts_of_a_test VALUES ('new')"))
        return len(await app.state.read_session.all(statement))

    app.add_api_route("/drafts", write, methods=["POST"])
    async with client_for(app) as client:
        assert (await client.post("/drafts")).json() == 2
    async with app.state.db.transaction() as session:
        await session.execute(text("DROP TABLE drafts_of_a_test"))


async def test_an_error_is_what_sqlalchemy_raises(reads: ReadSession) -> None:
    statement = select(literal_column("1") / cast(bindparam("by", type_=Text), Numeric))
    await prepare(reads, statement, by="1")
    with pytest.raises(DBAPIError) as prepared:
        await reads.first(statement, by="0")
    with pytest.raises(DBAPIError) as usual:
        await reads.first(select(literal_column("1") / cast("0", Numeric)))
    assert type(prepared.value) is type(usual.value)
    assert getattr(prepared.value.orig, "sqlstate", "") == "22012"  # division_by_zero
    assert await reads.first(statement, by="2") == (Decimal("0.5"),)


async def test_a_statement_has_the_configured_time_out(app: FastAPI, reads: ReadSession) -> None:
    show = select(literal_column("current_setting('statement_timeout')::interval"))
    await prepare(reads, show)
    seconds = app.state.settings.db_statement_timeout
    assert await reads.first(show) == (timedelta(seconds=seconds),)


async def test_a_server_that_does_not_answer_invalidates_the_pool(
    app: FastAPI, reads: ReadSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(reads, pid := select(literal_column("pg_backend_pid()")))
    before = await reads.first(pid)

    async def unresponsive(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr("asyncpg.connection.Connection.fetch", unresponsive)
    with pytest.raises(DatabaseUnavailable):
        await reads.first(pid)
    monkeypatch.undo()
    assert await reads.first(pid) != before
    assert app.state.db.engine.pool.checkedout() == 0


async def terminate(settings: Settings, pid: int) -> None:
    async with open_connection(make_url(settings.database_url.get_secret_value())) as admin:
        wait = text("SELECT pg_terminate_backend(:pid, 10000)")  # until it has ended
        assert await admin.scalar(wait, {"pid": pid})


async def test_a_lost_connection_is_replaced(
    app: FastAPI, reads: ReadSession, module_settings: Settings
) -> None:
    used_lately = app.state.settings.db_ping_after_idle > 0
    await prepare(reads, pid := select(literal_column("pg_backend_pid()")))
    before = await reads.first(pid)
    assert before
    await terminate(module_settings, before[0])
    if used_lately:  # not pinged: whoever uses it finds out
        with pytest.raises(DBAPIError, match="connection is closed"):
            await reads.first(pid)
    after = await reads.first(pid)
    assert after
    assert after != before


async def test_a_connection_that_was_idle_is_tested(
    reads: ReadSession, module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(reads, pid := select(literal_column("pg_backend_pid()")))
    before = await reads.first(pid)
    assert before
    await terminate(module_settings, before[0])
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 31)  # past DB_PING_AFTER_IDLE
    for module in (database, engine):
        monkeypatch.setattr(module, "time", later)
    assert await reads.first(pid) != before


async def test_a_connection_is_replaced_at_its_maximum_age(
    reads: ReadSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(reads, pid := select(literal_column("pg_backend_pid()")))
    before, now = await reads.first(pid), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1801)
    assert await reads.first(pid) != before


async def test_a_read_needs_a_greenlet_only_for_a_connection_that_may_be_tested(
    app: FastAPI, reads: ReadSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(reads, pid := select(literal_column("pg_backend_pid()")))
    before, used = await reads.first(pid), list[Any]()

    async def spawn(*arguments: Any) -> Any:
        used.append(arguments)
        return await greenlet_spawn(*arguments)

    monkeypatch.setattr(database, "greenlet_spawn", spawn)
    assert await reads.first(pid) == before
    assert len(used) == (0 if app.state.settings.db_ping_after_idle else 1)


async def test_a_cancelled_read_returns_its_connection(app: FastAPI, reads: ReadSession) -> None:
    sleep = select(func.pg_sleep(bindparam("seconds", type_=Numeric)))
    await prepare(reads, sleep, seconds=0)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reads.first(sleep, seconds=0.15)
    assert await reads.first(sleep, seconds=0)
    assert (app.state.db.used, app.state.db.engine.pool.checkedout()) == (0, 0)


async def test_a_listener_of_the_engine_sees_every_statement(module_settings: Settings) -> None:
    seen: list[str] = []
    async with running_platform(module_settings) as app:
        statement = select(literal("seen"))
        await prepare(app.state.read_session, statement)

        def before_cursor_execute(_: Any, __: Any, sql: str, *___: Any) -> None:
            seen.append(sql)

        arguments = app.state.db.engine.sync_engine, "before_cursor_execute", before_cursor_execute
        event.listen(*arguments)
        await app.state.read_session.first(statement)
        event.remove(*arguments)
        await app.state.read_session.first(statement)
    assert len(seen) == 1


async def test_the_log_shows_every_statement(
    reads: ReadSession, caplog: pytest.LogCaptureFixture
) -> None:
    await prepare(reads, statement := select(literal("logged")))
    with caplog.at_level("INFO", "sqlalchemy.engine"):
        await reads.first(statement)
    assert "SELECT" in caplog.text


async def test_nothing_is_prepared_through_pgbouncer(module_settings: Settings) -> None:
    engine = create_engine(module_settings.model_copy(update={"db_pgbouncer": True}))
    pgbouncer = Database(engine, max_connections=1, acquire_timeout=1)
    statement = select(literal("anew"))
    for _ in range(3):
        assert await ReadSession(pgbouncer).first(statement) == ("anew",)
    assert pgbouncer.prepared_reads.get(statement, {}) is None
    await engine.dispose()
