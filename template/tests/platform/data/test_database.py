"""Transactions, reads, the pool: against the real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import String, bindparam, func, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.base.errors import Conflict, Unavailable
from app.platform.data.database import Database, ReadSession, SessionDep, create_engine, on_commit
from app.settings import Settings
from tests.conftest import client_of, connected, running

PID = select(literal_column("pg_backend_pid()"))


@pytest.fixture
async def app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with a table of this test's own, with two connections at the most."""
    changes = {"db_pool_size": 1, "db_max_overflow": 1, "db_pool_timeout": 0.2}
    async with running(module_settings.model_copy(update=changes)) as app:
        async with app.state.db.transaction() as session:
            await session.execute(text("CREATE TABLE notes (body text UNIQUE DEFERRABLE)"))
        yield app
        async with app.state.db.transaction() as session:
            await session.execute(text("DROP TABLE notes"))


async def notes(app: FastAPI) -> list[str]:
    async with app.state.db.engine.connect() as connection:
        return list((await connection.execute(text("SELECT body FROM notes"))).scalars())


async def write(session: SessionDep, body: str, fail: bool = False) -> str:
    await session.execute(text("INSERT INTO notes VALUES (:body)"), {"body": body})
    if fail:
        raise Conflict("No.")
    return body


async def test_a_request_is_one_transaction(app: FastAPI) -> None:
    app.add_api_route("/write", write, methods=["POST"])
    async with client_of(app) as client:
        assert (await client.post("/write?body=kept")).status_code == 200
        assert (await client.post("/write?body=lost&fail=true")).status_code == 409
    assert await notes(app) == ["kept"]


async def test_a_commit_that_fails_is_an_error_that_the_caller_sees(app: FastAPI) -> None:
    async def twice(session: SessionDep) -> str:
        await session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        await session.execute(text("INSERT INTO notes VALUES ('same'), ('same')"))
        return "done"

    app.add_api_route("/twice", twice, methods=["POST"])
    async with client_of(app) as client:
        assert (await client.post("/twice")).status_code == 409
    assert await notes(app) == []


async def test_what_waits_for_the_commit_runs_after_it_and_only_then(app: FastAPI) -> None:
    seen: list[list[str]] = []

    async def look() -> None:
        seen.append(await notes(app))

    async with app.state.db.transaction() as session:
        await session.execute(text("INSERT INTO notes VALUES ('kept')"))
        on_commit(session, look)
        assert seen == []
    assert seen == [["kept"]]

    async def fail() -> None:
        async with app.state.db.transaction() as session:
            on_commit(session, look)
            raise Conflict("No.")

    with pytest.raises(Conflict):
        await fail()
    assert seen == [["kept"]]


async def test_a_busy_pool_makes_wait_and_then_says_so(app: FastAPI) -> None:
    database: Database = app.state.db
    async with database.slot(), database.slot():
        with pytest.raises(Unavailable):
            await ReadSession(database).first(PID)
        waiting = asyncio.create_task(ReadSession(database).all(PID))
    assert len(await waiting) == 1


async def test_a_reader_holds_no_transaction_open(app: FastAPI, module_settings: Settings) -> None:
    row = await ReadSession(app.state.db).first(PID)
    assert row is not None
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    async with connected(make_url(module_settings.database_url.get_secret_value())) as other:
        assert await other.scalar(state, {"pid": row[0]}) == "idle"


async def test_a_connection_that_died_while_idle_is_replaced(module_settings: Settings) -> None:
    changes: dict[str, Any] = {"db_pool_size": 1, "db_max_overflow": 0, "db_ping_after_idle": 0}
    engine = create_engine(module_settings.model_copy(update=changes))
    async with engine.connect() as connection:
        first = (await connection.execute(PID)).scalar_one()
    async with connected(make_url(module_settings.database_url.get_secret_value())) as other:
        end = text("SELECT pg_terminate_backend(:pid, 10000)")  # and wait until it is gone
        assert await other.scalar(end, {"pid": first})
    async with engine.connect() as connection:
        assert (await connection.execute(PID)).scalar_one() != first
    await engine.dispose()


async def pids(engine: AsyncEngine) -> set[int]:
    """Check out both connections; return which they are."""
    async with engine.connect() as one, engine.connect() as other:
        return {(await connection.execute(PID)).scalar_one() for connection in (one, other)}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        # Postgres would end the statement in time, so it must be gone.
        ("SET statement_timeout = 0", "SELECT pg_sleep(30)"),
        ("SET TRANSACTION READ ONLY", "CREATE TABLE t ()"),
    ],
    ids=["no answer", "a standby"],
)
async def test_a_server_that_is_of_no_use_is_left_with_all_connections(
    module_settings: Settings, first: str, then: str
) -> None:
    changes = {"db_pool_size": 2, "db_max_overflow": 0, "db_statement_timeout": 1.0}
    async with running(module_settings.model_copy(update=changes)) as app:

        async def use(session: SessionDep) -> None:
            await session.execute(text(first))
            await session.execute(text(then))

        app.add_api_route("/use", use)
        before = await pids(app.state.db.engine)
        async with client_of(app) as client:
            answer = await client.get("/use")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert not before & await pids(app.state.db.engine)


async def test_a_commit_that_is_not_answered_is_not_said_to_have_failed(app: FastAPI) -> None:
    end = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END"
    async with app.state.db.transaction() as session:
        await session.execute(
            text(f"CREATE OR REPLACE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS '{end}'")
        )
        await session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON notes"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()"
            )
        )
    app.add_api_route("/write", write, methods=["POST"])
    async with client_of(app) as client:
        answer = await client.post("/write?body=perhaps")
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")


async def test_a_statement_may_not_take_forever(module_settings: Settings) -> None:
    changes = {"db_statement_timeout": 0.2}
    async with running(module_settings.model_copy(update=changes)) as app:

        async def sleep(session: SessionDep) -> None:
            await session.execute(text("SELECT pg_sleep(30)"))

        app.add_api_route("/sleep", sleep)
        async with client_of(app) as client:
            answer: httpx2.Response = await client.get("/sleep")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]


async def test_a_session_that_is_given_up_leaves_no_connection_behind(app: FastAPI) -> None:
    async def hold(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(30)"))

    app.add_api_route("/hold", hold)
    async with client_of(app) as client:
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get("/hold")
    assert await notes(app) == []


async def test_a_read_that_is_given_up_leaves_no_connection_behind(app: FastAPI) -> None:
    reader = ReadSession(app.state.db)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.first(select(func.pg_sleep(30)))
    assert await reader.first(PID) is not None
    assert app.state.db.engine.pool.checkedout() == 0


async def test_a_reader_takes_values_by_name(app: FastAPI) -> None:
    statement = select(literal_column("body")).select_from(text("notes"))
    statement = statement.where(literal_column("body") == bindparam("body", type_=String))
    async with app.state.db.transaction() as session:
        await write(session, "one")
    reader = ReadSession(app.state.db)
    assert [len(await reader.all(statement, body=body)) for body in ("one", "two")] == [1, 0]


async def test_an_error_does_not_tell_the_values(app: FastAPI) -> None:
    twice = text("INSERT INTO notes VALUES (:body), (:body)")
    async with app.state.db.session() as session:
        await session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        with pytest.raises(IntegrityError) as error:
            await session.execute(twice, {"body": "s3cret"})
    assert "[SQL parameters hidden" in str(error.value)
    assert "s3cret" not in str(error.value).partition("[SQL:")[2]


async def test_a_crowd_of_readers_shares_the_connections_that_are_open(
    module_settings: Settings,
) -> None:
    async with running(module_settings) as app:
        reader = ReadSession(app.state.db)
        seen = set()
        for _ in range(5):
            seen |= set(await asyncio.gather(*(reader.first(PID) for _ in range(30))))
    assert len(seen) <= module_settings.db_pool_size
