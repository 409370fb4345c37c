"""Transactions, reads and the pool, against a real Postgres."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import JSON, String, bindparam, cast, func, literal, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.platform.base.errors import Conflict, Unavailable
from app.platform.data.database import Database, ReadSession, SessionDep, on_commit
from app.platform.data.engine import create_engine
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform

PID = select(literal_column("pg_backend_pid()"))


@pytest.fixture
async def app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with at most two connections and an empty table ``notes_of_a_test``."""
    changes = {"db_pool_size": 1, "db_max_overflow": 1}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        async with app.state.db.transaction() as session:
            await session.execute(
                text("CREATE TABLE notes_of_a_test (body text UNIQUE DEFERRABLE)")
            )
        yield app
        async with app.state.db.transaction() as session:
            await session.execute(text("DROP TABLE notes_of_a_test"))


async def stored_notes(app: FastAPI) -> list[str]:
    async with app.state.db.engine.connect() as connection:
        return list((await connection.execute(text("SELECT body FROM notes_of_a_test"))).scalars())


async def add_note(session: SessionDep, body: str, fail: bool = False) -> str:
    await session.execute(text("INSERT INTO notes_of_a_test VALUES (:body)"), {"body": body})
    if fail:
        raise Conflict("No.")
    return body


async def test_a_request_is_one_transaction(app: FastAPI) -> None:
    app.add_api_route("/notes", add_note, methods=["POST"])
    async with client_for(app) as client:
        assert (await client.post("/notes?body=kept")).status_code == 200
        assert (await client.post("/notes?body=lost&fail=true")).status_code == 409
    assert await stored_notes(app) == ["kept"]


async def test_a_failed_commit_becomes_an_error_response(app: FastAPI) -> None:
    async def violate_at_commit(session: SessionDep) -> str:
        await session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        await session.execute(text("INSERT INTO notes_of_a_test VALUES ('same'), ('same')"))
        return "done"

    app.add_api_route("/notes", violate_at_commit, methods=["POST"])
    async with client_for(app) as client:
        assert (await client.post("/notes")).status_code == 409
    assert await stored_notes(app) == []


async def test_on_commit_callbacks_run_after_a_commit_and_not_after_a_rollback(
    app: FastAPI,
) -> None:
    seen: list[list[str]] = []

    async def record() -> None:
        seen.append(await stored_notes(app))

    async with app.state.db.transaction() as session:
        await session.execute(text("INSERT INTO notes_of_a_test VALUES ('kept')"))
        on_commit(session, record)
        assert seen == []
    assert seen == [["kept"]]

    async def fail() -> None:
        async with app.state.db.transaction() as session:
            on_commit(session, record)
            raise Conflict("No.")

    with pytest.raises(Conflict):
        await fail()
    assert seen == [["kept"]]


async def test_callbacks_of_a_savepoint_do_not_run_if_it_is_rolled_back(app: FastAPI) -> None:
    ran: list[str] = []

    def register(session: AsyncSession, name: str) -> None:
        async def callback() -> None:
            ran.append(name)

        on_commit(session, callback)

    async def part(session: AsyncSession, name: str, *, fails: bool) -> None:
        async with session.begin_nested():
            register(session, name)
            await session.execute(
                text("INSERT INTO notes_of_a_test VALUES (:name)"), {"name": name}
            )
            if fails:
                raise Conflict("No.")

    async with app.state.db.transaction() as session:
        register(session, "before")
        for name, fails in (("one", False), ("two", True), ("three", False)):
            with suppress(Conflict):
                await part(session, name, fails=fails)
        with suppress(Conflict):
            async with session.begin_nested():
                await part(session, "inner", fails=False)
                raise Conflict("No.")
        register(session, "after")
    assert ran == ["before", "one", "three", "after"]
    assert await stored_notes(app) == ["one", "three"]


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (the pool has no event for it)
            await asyncio.sleep(0.01)


@pytest.fixture
async def database(module_settings: Settings) -> AsyncIterator[Database]:
    """A database with at most two connections."""
    changes = {"db_pool_size": 1, "db_max_overflow": 1}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        yield app.state.db


async def test_an_exhausted_pool_queues_requests_and_then_raises_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [asyncio.Event(), asyncio.Event()]

    async def hold(end: asyncio.Event) -> None:
        async with database.transaction() as session:
            await session.execute(PID)
            await end.wait()

    holders = [asyncio.create_task(hold(end)) for end in ends]
    await wait_until(lambda: database.used == len(holders))
    with monkeypatch.context() as impatient:
        impatient.setattr(database, "_acquire_timeout", 0.05)
        with pytest.raises(Unavailable):
            await ReadSession(database).first(PID)
    queued = asyncio.create_task(ReadSession(database).all(PID))
    await wait_until(lambda: database.waiting == 1)
    for end in ends:
        end.set()
    assert len(await queued) == 1
    await asyncio.gather(*holders)
    assert (database.used, database.waiting) == (0, 0)


async def test_reads_leave_no_transaction_open(app: FastAPI, module_settings: Settings) -> None:
    row = await ReadSession(app.state.db).first(PID)
    assert row is not None
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    async with open_connection(make_url(module_settings.database_url.get_secret_value())) as admin:
        assert await admin.scalar(state, {"pid": row[0]}) == "idle"


async def test_a_connection_lost_while_idle_is_replaced(module_settings: Settings) -> None:
    changes: dict[str, Any] = {"db_pool_size": 1, "db_max_overflow": 0, "db_ping_after_idle": 0}
    engine = create_engine(module_settings.model_copy(update=changes))
    async with engine.connect() as connection:
        first = (await connection.execute(PID)).scalar_one()
    async with open_connection(make_url(module_settings.database_url.get_secret_value())) as admin:
        terminate = text("SELECT pg_terminate_backend(:pid, 10000)")  # waits until it has ended
        assert await admin.scalar(terminate, {"pid": first})
    async with engine.connect() as connection:
        assert (await connection.execute(PID)).scalar_one() != first
    await engine.dispose()


async def pids(engine: AsyncEngine) -> set[int]:
    """Backend process ids of the pool's two connections, without a statement that may time out."""
    async with engine.connect() as one, engine.connect() as other:
        drivers = [(await each.get_raw_connection()).driver_connection for each in (one, other)]
        return {driver.get_server_pid() for driver in drivers if driver}


@pytest.mark.parametrize(
    ("setup", "statement"),
    [
        # Without its own timeout, Postgres looks unresponsive.
        ("SET statement_timeout = 0", "SELECT pg_sleep(30)"),
        ("SET TRANSACTION READ ONLY", "CREATE TABLE t_of_a_test ()"),
    ],
    ids=["unresponsive", "standby"],
)
async def test_an_unresponsive_server_or_a_standby_invalidates_the_pool(
    module_settings: Settings, setup: str, statement: str
) -> None:
    changes = {"db_pool_size": 2, "db_max_overflow": 0, "db_statement_timeout": 1.0}
    async with running_platform(module_settings.model_copy(update=changes)) as app:

        async def fail(session: SessionDep) -> None:
            await session.execute(text(setup))
            await session.execute(text(statement))

        app.add_api_route("/fail", fail)
        before = await pids(app.state.db.engine)
        async with client_for(app) as client:
            response = await client.get("/fail")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert not before & await pids(app.state.db.engine)


async def test_a_connection_lost_during_the_commit_is_an_unknown_outcome(app: FastAPI) -> None:
    body = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END"
    async with app.state.db.transaction() as session:
        await session.execute(
            text(f"CREATE OR REPLACE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        )
        await session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes_of_a_test"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION crash()"
            )
        )
    app.add_api_route("/notes", add_note, methods=["POST"])
    async with client_for(app) as client:
        response = await client.post("/notes?body=perhaps")
    assert (response.status_code, response.json()["code"]) == (503, "outcome_unknown")


async def test_a_slow_statement_times_out(module_settings: Settings) -> None:
    changes = {"db_statement_timeout": 0.2}
    async with running_platform(module_settings.model_copy(update=changes)) as app:

        async def sleep(session: SessionDep) -> None:
            await session.execute(text("SELECT pg_sleep(30)"))

        app.add_api_route("/sleep", sleep)
        async with client_for(app) as client:
            response: httpx2.Response = await client.get("/sleep")
        assert response.status_code == 503
        assert response.headers["Retry-After"]


async def test_a_cancelled_transaction_returns_its_connection(app: FastAPI) -> None:
    async def hold(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(30)"))

    app.add_api_route("/hold", hold)
    async with client_for(app) as client:
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get("/hold")
    assert await stored_notes(app) == []


async def test_a_cancelled_read_returns_its_connection(app: FastAPI) -> None:
    read_session = ReadSession(app.state.db)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await read_session.first(select(func.pg_sleep(30)))
    assert await read_session.first(PID) is not None
    assert app.state.db.engine.pool.checkedout() == 0


async def test_reads_bind_values_by_name(app: FastAPI) -> None:
    statement = select(literal_column("body")).select_from(text("notes_of_a_test"))
    statement = statement.where(literal_column("body") == bindparam("body", type_=String))
    async with app.state.db.transaction() as session:
        await add_note(session, "one")
    read_session = ReadSession(app.state.db)
    assert [len(await read_session.all(statement, body=body)) for body in ("one", "two")] == [1, 0]


async def test_errors_do_not_contain_parameter_values(app: FastAPI) -> None:
    duplicates = text("INSERT INTO notes_of_a_test VALUES (:body), (:body)")
    async with app.state.db.transaction() as session:
        await session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        with pytest.raises(IntegrityError) as error:
            await session.execute(duplicates, {"body": "s3cret"})
        await session.rollback()
    assert "[SQL parameters hidden" in str(error.value)
    assert "s3cret" not in str(error.value).partition("[SQL:")[2]


async def test_concurrent_reads_open_no_connections_beyond_the_pool(
    module_settings: Settings,
) -> None:
    async with running_platform(module_settings) as app:
        read_session = ReadSession(app.state.db)
        seen = set()
        for _ in range(5):
            seen |= set(await asyncio.gather(*(read_session.first(PID) for _ in range(30))))
    assert len(seen) <= module_settings.db_pool_size


@pytest.mark.parametrize(
    "document",
    [
        '{"a": [1, 2.50, -0, 1e400, 0.1e-5, null, true, "x"], "a ": {"b": []}}',
        "123456789012345678901234567890",
        '["\\ud83d\\ude00"]',
        '["half of a pair: \\ud83d"]',
    ],
)
async def test_json_is_read_as_python_reads_it(app: FastAPI, document: str) -> None:
    async with app.state.db.engine.connect() as connection:
        value = await connection.scalar(select(cast(literal(document, String), JSON)))
    assert repr(value) == repr(json.loads(document))
