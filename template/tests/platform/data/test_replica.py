"""Which reads go to the standby; here it is another database, which says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import literal_column, select, text
from sqlalchemy.engine import URL, make_url

from app.platform.base.errors import DatabaseUnavailable, Unavailable
from app.platform.data.database import (
    DatabaseDep,
    PrimaryReadSessionDep,
    ReadSession,
    ReadSessionDep,
    SessionDep,
)
from app.platform.data.replica import Replica
from app.platform.server import checks
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform

SERVER = select(literal_column("name")).select_from(text("server_of_a_test"))
ONLY_ON_PRIMARY = select(literal_column("1")).select_from(text("new_table_of_a_test"))
SLEEP = select(literal_column("pg_sleep(600)"))
# As Postgres ends a statement at its time-out: with the same SQLSTATE.
CANCEL_SLEEP = text(
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'"
)
WRITE = text("UPDATE server_of_a_test SET name = name")


async def read(reads: ReadSessionDep) -> str:
    return await server(reads)


async def read_from_primary(reads: PrimaryReadSessionDep) -> str:
    return await server(reads)


async def read_in_transaction(session: SessionDep, reads: ReadSessionDep) -> list[str]:
    before = await server(reads)
    await session.execute(WRITE)
    return [before, await server(reads)]


async def read_after_transaction(database: DatabaseDep, reads: ReadSessionDep) -> str:
    async with database.transaction() as session:
        await session.execute(WRITE)
    return await server(reads)


async def read_after_statement(database: DatabaseDep, reads: ReadSessionDep) -> str:
    await database.execute(WRITE)
    return await server(reads)


async def read_new_table(reads: ReadSessionDep) -> str:
    return "primary" if await reads.first(ONLY_ON_PRIMARY) else ""


async def read_slowly(reads: ReadSessionDep) -> None:
    await reads.first(SLEEP)


async def server(reads: ReadSession) -> str:
    row = await reads.first(SERVER)
    assert row
    return str(row.name)


ROUTES: tuple[Callable[..., Any], ...] = (
    read,
    read_from_primary,
    read_in_transaction,
    read_after_transaction,
    read_after_statement,
    read_new_table,
    read_slowly,
)


@pytest.fixture(scope="module")
async def both(
    create_database: Callable[..., URL], module_settings: Settings
) -> AsyncIterator[FastAPI]:
    urls = create_database(), create_database()
    for name, url in zip(("primary", "standby"), urls, strict=True):
        async with open_connection(url, isolation_level="AUTOCOMMIT") as connection:
            await connection.execute(
                text(f"CREATE TABLE server_of_a_test AS SELECT '{name}' AS name")
            )
            if name == "primary":
                await connection.execute(text("CREATE TABLE new_table_of_a_test AS SELECT 1"))
    primary, standby = (SecretStr(url.render_as_string(hide_password=False)) for url in urls)
    changes = {"database_url": primary, "database_replica_url": standby}
    settings = module_settings.model_copy(update=changes)

    async def follow(replica: Replica) -> None:
        """Compare nothing: the other database is no standby."""

    with patch.object(Replica, "_follow", follow):
        async with running_platform(settings) as app:
            for route in ROUTES:
                app.add_api_route(f"/{route.__name__}", route, methods=["GET", "HEAD", "POST"])
            yield app


@pytest.fixture
def app(both: FastAPI) -> FastAPI:
    both.state.replica.current_at = float("inf")
    return both


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


async def ask(client: httpx2.AsyncClient, route: Callable[..., Any], method: str = "GET") -> Any:
    response = await client.request(method, f"/{route.__name__}")
    assert response.is_success, response.text
    return response.json() if method != "HEAD" else None


async def test_only_get_and_head_read_from_the_standby(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    assert await ask(client, read) == "standby"
    assert await ask(client, read, "POST") == "primary"
    before = app.state.db._uses.copy()
    await ask(client, read, "HEAD")
    assert app.state.db._uses == before


@pytest.mark.parametrize("route", [read_after_transaction, read_after_statement])
async def test_a_request_reads_what_it_wrote(
    client: httpx2.AsyncClient, route: Callable[..., Any]
) -> None:
    assert await ask(client, route) == "primary"


async def test_an_open_transaction_is_joined_once_it_has_executed_a_statement(
    client: httpx2.AsyncClient,
) -> None:
    assert await ask(client, read_in_transaction) == ["standby", "primary"]


async def test_a_route_may_read_from_the_primary(client: httpx2.AsyncClient) -> None:
    assert await ask(client, read_from_primary) == "primary"


async def test_lookups_of_callers_and_reads_of_jobs_use_the_primary(app: FastAPI) -> None:
    assert await server(app.state.read_session) == "primary"


async def test_a_standby_that_is_too_far_behind_is_not_read_from(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    app.state.replica.current_at = float("-inf")
    assert await ask(client, read) == "primary"


async def test_what_only_the_primary_has_is_read_there(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    assert await ask(client, read_new_table) == "primary"
    assert await ask(client, read) == "standby"


async def test_a_read_that_took_too_long_is_not_repeated(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    before = app.state.db._uses.copy()
    request = asyncio.create_task(client.get("/read_slowly"))
    standby = make_url(app.state.settings.database_replica_url.get_secret_value())
    async with asyncio.timeout(30), open_connection(standby) as connection:
        while not await connection.scalar(CANCEL_SLEEP):  # noqa: ASYNC110 (it is the server that waits)
            await asyncio.sleep(0.01)
        response = await request
    assert response.status_code == 503
    assert app.state.db._uses == before


@pytest.mark.parametrize("error", [DatabaseUnavailable(), Unavailable("busy")])
async def test_the_primary_takes_the_reads_of_a_lost_standby_and_not_of_a_busy_one(
    app: FastAPI,
    client: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Unavailable,
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(app.state.replica.database, "read", fail)
    response = await client.get("/read")
    if isinstance(error, DatabaseUnavailable):
        assert response.json() == "primary"
        assert not app.state.replica.usable  # until the next comparison
    else:
        assert response.status_code == 503


async def test_the_pools_of_both_servers_are_in_the_metrics(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    metrics = (await client.get("/metrics")).text
    assert "db_pool_connections 20.0" in metrics
    assert "db_replica_lag_seconds -Inf" in metrics


async def test_without_a_standby_there_is_nothing_to_ask(module_settings: Settings) -> None:
    async with running_platform(module_settings) as app:
        assert app.state.replica is None
        assert "replica" not in app.state.readiness.pings
        async with client_for(app) as client:
            assert "db_replica" not in (await client.get("/metrics")).text


async def test_the_connections_to_the_standby_are_counted(module_settings: Settings) -> None:
    async with checks._connected(module_settings) as connection:
        limit = int((await connection.execute(checks.CONNECTION_LIMIT)).scalar_one())
    settings = module_settings.model_copy(update={"db_pool_size": 1})
    processes = limit // 2 + 1  # each has one to the primary and two to the standby
    await checks._connection_budget(settings, processes)
    of_both = settings.model_copy(update={"database_replica_url": settings.database_url})
    with pytest.raises(checks.CheckFailed, match="but the standby allows"):
        await checks._connection_budget(of_both, processes)


@pytest.mark.parametrize("away", [False, True])
async def test_app_check_warns_of_a_server_that_is_no_standby_or_away(
    module_settings: Settings, away: bool
) -> None:
    url = module_settings.database_url
    if away:
        url = SecretStr(make_url(url.get_secret_value()).set(port=1).render_as_string(False))
    settings = module_settings.model_copy(update={"database_replica_url": url})
    with pytest.raises(checks.CheckWarning, match="does not answer" if away else "not a standby"):
        await checks._replica(settings)
    await checks._connection_budget(settings, 1)  # without it, the service still starts
