"""Reads from a real standby, which falls behind, is lost, hangs, and is promoted."""

import asyncio
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import literal_column, select, text
from sqlalchemy.engine import URL, make_url

from app.platform.data import replica
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.dev.servers import postgres
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_platform
from tests.system.standby import Standby

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

MAX_LAG = 2.0  # seconds
TIMEOUT = 30.0
NEWEST = select(
    literal_column("coalesce(max(number), 0)").label("number"),
    literal_column("pg_is_in_recovery()").label("standby"),
).select_from(text("rows_of_a_test"))


async def read(reads: ReadSessionDep) -> dict[str, Any]:
    row = await reads.first(NEWEST)
    assert row
    return row._asdict()


async def write(session: SessionDep) -> int:
    return int(
        (
            await session.execute(
                text("INSERT INTO rows_of_a_test DEFAULT VALUES RETURNING number")
            )
        ).scalar_one()
    )


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
async def standby(primary: str) -> AsyncIterator[Standby]:
    await execute(
        make_url(primary),
        # So that a commit has been written, and its position counts, before it is acknowledged.
        "ALTER DATABASE postgres SET synchronous_commit = on",
        "DROP TABLE IF EXISTS rows_of_a_test",
        "CREATE TABLE rows_of_a_test (number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    )
    standby = Standby(primary)
    with standby.running():
        yield standby


async def execute(url: URL, *statements: str) -> None:
    async with open_connection(url, isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            await connection.execute(text(statement))


class Service:
    """The service, a client that counts its writes, and the standby."""

    def __init__(self, app: FastAPI, client: httpx2.AsyncClient) -> None:
        self.app = app
        self.client = client
        self.written: list[tuple[float, int]] = []  # when it was acknowledged, and its number

    async def read(self) -> tuple[int, bool]:
        """The newest row, and whether the standby gave it; fails if that is too late."""
        began = time.monotonic()
        response = await self.client.get("/read")
        assert response.status_code == 200, response.text
        found = response.json()
        due = [number for at, number in self.written if at < began - MAX_LAG]
        assert found["number"] >= max(due, default=0)
        return found["number"], found["standby"]

    async def write(self) -> int:
        number = (await self.client.post("/write")).json()
        self.written.append((time.monotonic(), number))
        return int(number)

    async def until_read_from(self, standby: bool) -> None:
        """Write and read until the reads come from the one or the other."""
        end = time.monotonic() + TIMEOUT
        while (await self.read())[1] != standby:
            assert time.monotonic() < end, "still read from the other server"
            await self.write()
            await asyncio.sleep(0.02)

    async def health(self) -> tuple[str, str]:
        readiness = self.app.state.readiness
        readiness._expires_at = 0
        checks = await readiness.checks()
        return checks["postgres"].status, checks["replica"].status


@pytest.fixture
async def service(
    primary: str, standby: Standby, module_settings: Settings
) -> AsyncIterator[Service]:
    changes = {
        "database_url": SecretStr(primary),
        "database_replica_url": SecretStr(standby.url),
        "db_replica_max_lag": MAX_LAG,
        "db_statement_timeout": 1.0,
        "db_pool_timeout": 1.0,
    }
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        app.add_api_route("/read", read)
        app.add_api_route("/write", write, methods=["POST"])
        async with client_for(app) as client:
            service = Service(app, client)
            await service.until_read_from(standby=True)
            yield service


async def test_reads_are_never_later_than_the_limit_and_come_back(
    service: Service, standby: Standby
) -> None:
    url = make_url(standby.url)
    await execute(url, "SELECT pg_wal_replay_pause()")
    await service.until_read_from(standby=False)  # each read checks how late it is
    assert service.app.state.replica.lag > MAX_LAG
    assert await service.health() == ("up", "down")
    newest = await service.write()
    assert await service.read() == (newest, False)
    await execute(url, "SELECT pg_wal_replay_resume()")
    await service.until_read_from(standby=True)
    assert await service.health() == ("up", "up")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_no_read_fails_when_the_standby_dies_or_hangs(
    service: Service, standby: Standby, number: signal.Signals
) -> None:
    standby.send(number)
    await asyncio.gather(*(service.read() for _ in range(30)))
    await service.until_read_from(standby=False)
    assert await service.health() == ("up", "down")
    newest = await service.write()
    assert await service.read() == (newest, False)


async def test_a_promoted_standby_is_dropped_at_once(service: Service, standby: Standby) -> None:
    url = make_url(standby.url)
    await execute(url, "SELECT pg_promote()")
    end = time.monotonic() + TIMEOUT
    while service.app.state.replica.usable:
        assert time.monotonic() < end, "still in use"
        await asyncio.sleep(0.05)
    assert service.app.state.replica.lag == math.inf  # not only when the limit had passed
    await execute(url, "INSERT INTO rows_of_a_test SELECT FROM generate_series(1, 1000)")
    newest = await service.write()
    assert await service.read() == (newest, False)
    await asyncio.sleep(2 * replica.CHECK_INTERVAL)
    assert not service.app.state.replica.usable
