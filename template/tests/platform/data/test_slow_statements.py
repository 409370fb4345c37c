"""Slow statements are in the log, without their values, whichever way they run."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Float, bindparam, func, literal_column, select, text
from sqlalchemy.exc import DBAPIError

from app.platform.base import context
from app.platform.data.database import Database, ReadSession, SessionDep
from app.platform.data.engine import create_engine
from app.platform.data.prepared_reads import PreparedRead, TimedRead
from app.platform.data.slow_statements import MAX_LENGTH, SlowStatements
from app.platform.http import routing
from app.settings import Settings
from tests.conftest import client_for, running_platform

SLOW = select(func.pg_sleep(bindparam("seconds", type_=Float)), literal_column("1"))
THRESHOLD = 30  # ms


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    changed = module_settings.model_copy(update={"slow_statement_ms": THRESHOLD})
    async with running_platform(changed) as app:
        yield app


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    written = capfd.readouterr().out
    assert "0.0412" not in written
    found = [json.loads(line) for line in written.splitlines()]
    return [line for line in found if line["event"] == "slow statement"]


async def test_a_slow_statement_is_logged_with_its_route_and_counted_but_without_values(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    async def nap(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 0.0412})

    service.add_api_route("/nap", nap, methods=["POST"])
    routing.install_index(service)
    async with client_for(service) as client:
        capfd.readouterr()
        assert (await client.post("/nap", headers={"X-Request-ID": "r-1"})).status_code == 200
        [line] = [each for each in lines(capfd) if "pg_sleep" in each["statement"]]
        scraped = (await client.get("/metrics")).text
    assert line["statement"] == "SELECT pg_sleep($1)"
    assert line["route"] == "POST /nap"
    assert line["request_id"] == "r-1"
    assert line["level"] == "warning"
    assert line["duration_ms"] >= THRESHOLD
    assert "db_slow_statements_total" in scraped
    assert "db_slow_statements_total 0.0" not in scraped


async def test_a_slow_prepared_read_is_logged_too(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    read: ReadSession = service.state.read_session
    with context.bind_request_context(name="send_invoice"):
        for _ in range(3):
            await read.all(SLOW, seconds=0.0412)
        reads: Any = service.state.db.prepared_reads
        assert isinstance(reads.get(SLOW, {"seconds": 1}), TimedRead)
        capfd.readouterr()
        await read.all(SLOW, seconds=0.0412)
    [line] = [each for each in lines(capfd) if "pg_sleep" in each["statement"]]
    assert line["route"] == "send_invoice"


async def test_a_statement_that_fails_slowly_is_logged(
    service: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = text("SELECT 1 / (length(pg_sleep(0.04)::text))")
    with pytest.raises(DBAPIError):
        await service.state.db.execute(failing)
    assert str(failing) in [line["statement"] for line in lines(capfd)]


async def test_a_long_statement_is_cut(
    module_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = create_engine(module_settings)
    SlowStatements(threshold=0).listen(engine)
    capfd.readouterr()
    long = f"SELECT 1 -- {'x' * MAX_LENGTH}"
    async with Database(engine, 1, 5).transaction() as session:
        await session.execute(text(long))
    await engine.dispose()
    assert long[:MAX_LENGTH] in [line["statement"] for line in lines(capfd)]


async def test_many_rows_in_one_call_and_commits_are_timed(
    module_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = create_engine(module_settings)
    SlowStatements(threshold=0).listen(engine)
    capfd.readouterr()
    async with Database(engine, 1, 5).transaction() as session:
        await session.execute(text("CREATE TEMPORARY TABLE naps (seconds float)"))
        rows = [{"seconds": 1.5}, {"seconds": 2.5}]
        await session.execute(text("INSERT INTO naps VALUES (:seconds)"), rows)
    await engine.dispose()
    found = [line["statement"] for line in lines(capfd)]
    assert found[-2:] == ["INSERT INTO naps VALUES ($1)", "COMMIT"]


async def test_with_zero_nothing_is_timed(module_settings: Settings) -> None:
    changed = module_settings.model_copy(update={"slow_statement_ms": 0})
    async with running_platform(changed) as app:
        dialect: Any = app.state.db.engine.sync_engine.dialect
        assert not {"do_execute", "do_executemany", "do_commit"} & vars(dialect).keys()
        read: ReadSession = app.state.read_session
        for _ in range(2):
            await read.all(SLOW, seconds=0.0)
        prepared: Any = app.state.db.prepared_reads.get(SLOW, {"seconds": 0})
        assert type(prepared) is PreparedRead
