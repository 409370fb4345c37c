"""Outages, failovers, locks and exhausted connections of Postgres under load.

Each test runs Gunicorn with two workers under a load of reads and of transactions that write an
item and its job. In the end, the responses are compared with the contents of the database.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from app.platform.dev.postgres import POSTGRES
from tests.conftest import migrate, open_connection, run_sync
from tests.fire._outages import (
    MAX_SECONDS,
    TIMEOUT,
    Load,
    Proxy,
    ServerProcess,
    is_retryable,
    readiness,
    run_load,
    run_proxy,
    run_server,
    running_service,
    wait_until,
)
from tests.fire._pgbouncer import pgbouncer
from tests.fire.conftest import FULL, Note
from tests.system.serving import Server

BOTH, READ = "/api/v1/fire/both", "/api/v1/fire/read"
POOL = 4  # connections of each of the two workers
OUTAGE = 10.0 if FULL else 1.5  # seconds
LOCK_HELD = 60.0 if FULL else 4.0  # seconds
TIMEOUTS = {} if FULL else {"DB_STATEMENT_TIMEOUT": "2", "DB_POOL_TIMEOUT": "2"}
CONNECTIONS, RESERVED = 30, 3  # of a server; the reserved ones are for superusers
OPTIONS = ("-c", f"max_connections={CONNECTIONS + RESERVED}")


def url_of(port: int) -> URL:
    return URL.create("postgresql+asyncpg", "postgres", None, "127.0.0.1", port, "postgres")


def query(server: ServerProcess, statement: str) -> list[Any]:
    """First column of the result of a statement on a new connection."""
    values: list[Any] = []

    async def run() -> None:
        async with open_connection(url_of(server.port), isolation_level="AUTOCOMMIT") as connection:
            result = await connection.execute(text(statement))
            values.extend(result.scalars() if result.returns_rows else ())

    run_sync(run())
    return values


@pytest.fixture(scope="module")
def _two() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with run_server(POSTGRES, *OPTIONS) as one, run_server(POSTGRES, *OPTIONS) as other:
        for server in (one, other):
            run_sync(migrate(url_of(server.port)))
        yield one, other


@pytest.fixture
def two(_two: tuple[ServerProcess, ServerProcess]) -> tuple[ServerProcess, ServerProcess]:
    """Two migrated servers without data."""
    for server in _two:
        query(server, "TRUNCATE item_parts, items, jobs")
    return _two


@pytest.fixture
def proxy(two: tuple[ServerProcess, ServerProcess]) -> Iterator[Proxy]:
    """A proxy between the service and its database, initially the first server."""
    with run_proxy(two[0].port) as proxy:
        yield proxy


@contextmanager
def service(
    environment: dict[str, str], folder: Path, port: int, **changes: str
) -> Iterator[Server]:
    """The service with its database on a port."""
    url = url_of(port).render_as_string()
    given = {"DATABASE_URL": url, "RATE_LIMIT": "off", "DB_POOL_SIZE": str(POOL)}
    with running_service(environment, folder, **given, **TIMEOUTS, **changes) as server:
        yield server
        assert server.stop() == 0


def check_consistency(traffic: Load, *databases: ServerProcess) -> None:
    """Compare the responses with the rows in the databases."""
    items, jobs = (
        {row for server in databases for row in query(server, statement)}
        for statement in ("SELECT name FROM items", "SELECT arguments->>'owner' FROM jobs")
    )
    written = {r for r in traffic.results if r.name in items}
    unknown = {r for r in traffic.results if r.code == "outcome_unknown"}
    wrote = {r for r in traffic.results if r.path == BOTH}
    assert items == jobs, "a transaction was not atomic"
    assert {r for r in wrote if r.status == 200} - written == set(), (
        "a committed transaction was lost"
    )
    assert {r for r in wrote if r.status != 200} & written <= unknown, (
        "a failed transaction was committed"
    )


def counts_none(server: ServerProcess, statement: str) -> bool:
    return query(server, statement) == [0]


def check_connections(*databases: ServerProcess) -> int:
    """Wait until all connections are idle; return how many are open."""
    count = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    for database in databases:
        wait_until(partial(counts_none, database, count + " AND state <> 'idle'"))
    left = sum(query(database, count)[0] for database in databases)
    assert left <= 2 * POOL
    return int(left)


def test_the_service_starts_without_postgres_and_becomes_ready_with_it(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    proxy.stop()
    with (
        service(environment, tmp_path, proxy.port) as server,
        run_load(server, BOTH, READ) as traffic,
    ):
        traffic.wait_for_failure()
        assert readiness(server) == "not_ready"
        assert server.get("/health/live").status_code == 200
        proxy.start()
        wait_until(lambda: readiness(server) == "ready")
        seconds = traffic.wait_for_recovery()
    assert not traffic.invalid
    check_consistency(traffic, two[0])
    note(**traffic.figures, seconds_until_served=seconds)


def killed(one: ServerProcess, proxy: Proxy) -> None:
    one.kill()
    time.sleep(OUTAGE)
    one.start()


def restarted(one: ServerProcess, proxy: Proxy) -> None:
    one.shut_down()
    one.start()


def unreachable(one: ServerProcess, proxy: Proxy) -> None:
    proxy.stop()
    time.sleep(OUTAGE)
    proxy.start()


def hung(one: ServerProcess, proxy: Proxy) -> None:
    one.signal(signal.SIGSTOP)
    time.sleep(4 * OUTAGE)
    one.signal(signal.SIGCONT)


def test_requests_recover_right_after_an_outage(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    one, faults = two[0], (killed, restarted, unreachable, hung) * (5 if FULL else 1)
    after = {}
    with service(environment, tmp_path, proxy.port) as server:
        with run_load(server, BOTH, READ) as traffic:
            for fault in faults:
                traffic.wait_for_recovery()
                fault(one, proxy)
                after[f"s until served after {fault.__name__}"] = traffic.wait_for_recovery()
                wait_until(lambda: readiness(server) == "ready")
        left = check_connections(one)
        wait_until(lambda: "db_pool_connections_used 0.0" in server.get("/metrics").text)
    assert not traffic.invalid
    assert traffic.longest < MAX_SECONDS
    check_consistency(traffic, one)
    note(**traffic.figures, faults=len(faults), connections_left=left, **after)


def disconnected(old: ServerProcess, proxy: Proxy) -> None:
    """The old primary closes its connections."""
    proxy.stop()
    proxy.start()


def unreachable_without_reset(old: ServerProcess, proxy: Proxy) -> None:
    """The old primary's machine disappears, so its connections are not closed."""
    proxy.blackhole()


def demoted(old: ServerProcess, proxy: Proxy) -> None:
    """The old primary becomes a standby, which rejects writes."""
    query(old, "ALTER SYSTEM SET default_transaction_read_only = on")
    query(old, "SELECT pg_reload_conf()")


def wait_for_items(server: ServerProcess) -> None:
    """Wait until the service writes to a server."""
    count = "SELECT count(*) FROM items"
    before = query(server, count)
    wait_until(lambda: query(server, count) > before)


def test_requests_recover_after_a_failover(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    old, new = two
    after = {}
    with service(environment, tmp_path, proxy.port) as server:
        with run_load(server, BOTH, READ) as traffic:
            for fault in (disconnected, unreachable_without_reset, demoted):
                traffic.wait_for_recovery()
                proxy.target = new.port
                fault(old, proxy)
                wait_for_items(new)
                after[f"s until served after {fault.__name__}"] = traffic.wait_for_recovery()
                wait_until(lambda: readiness(server) == "ready")
                old, new = new, old
        left = check_connections(new, old)
    query(new, "ALTER SYSTEM RESET ALL")
    query(new, "SELECT pg_reload_conf()")
    assert not traffic.invalid
    assert traffic.longest < MAX_SECONDS
    check_consistency(traffic, old, new)
    note(**traffic.figures, connections_left=left, **after)


@contextmanager
def holding(work: Callable[[], Awaitable[list[asyncpg.Connection]]]) -> Iterator[None]:
    """Hold the connections that ``work`` opens until the end of the block."""
    opened, stop = threading.Event(), threading.Event()

    async def hold() -> None:
        held = await work()
        opened.set()
        await asyncio.to_thread(stop.wait)
        for connection in held:
            connection.terminate()

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, hold())
        try:
            wait_until(lambda: opened.is_set() or future.done())
            yield
        finally:
            stop.set()
            future.result(TIMEOUT)


async def connect(server: ServerProcess) -> asyncpg.Connection:
    where = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "database": "postgres"}
    return await asyncpg.connect(**where, server_settings={"application_name": "test"})


async def exhaust(server: ServerProcess) -> list[asyncpg.Connection]:
    """Take all connections of a server, terminating those of other clients."""
    held = [await connect(server)]
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND application_name <> 'test'"
    )
    while len(held) < CONNECTIONS + RESERVED:
        await held[0].execute(others)
        with suppress(asyncpg.PostgresError):
            held.append(await connect(server))
    return held


def test_requests_recover_once_connections_are_available(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    one = two[0]
    with (
        service(environment, tmp_path, proxy.port) as server,
        run_load(server, BOTH, READ) as traffic,
    ):
        traffic.wait_for_recovery()
        with holding(lambda: exhaust(one)):
            traffic.wait_for_failure()
            wait_until(lambda: readiness(server) == "not_ready")
            time.sleep(OUTAGE)
        seconds = traffic.wait_for_recovery()
        wait_until(lambda: readiness(server) == "ready")
    assert not traffic.invalid
    check_consistency(traffic, one)
    assert "TooManyConnectionsError" in server.log.read_text()
    note(**traffic.figures, seconds_until_served=seconds)


async def lock(server: ServerProcess) -> list[asyncpg.Connection]:
    """Update an item without committing."""
    connection = await connect(server)
    await connection.execute("BEGIN")
    await connection.execute("UPDATE items SET version = version WHERE name = 'locked'")
    return [connection]


def test_slow_statements_and_locks_do_not_delay_other_requests(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    one = two[0]
    with service(environment, tmp_path, proxy.port) as server:
        client = httpx2.Client(base_url=server.url, timeout=TIMEOUT)
        with client, run_load(server, BOTH, READ, clients=3) as traffic:
            assert client.post(BOTH, params={"name": "locked"}).is_success
            rejected = []
            with holding(lambda: lock(one)):
                end = time.monotonic() + LOCK_HELD
                while time.monotonic() < end:
                    rejected.append(client.post("/api/v1/fire/lock", params={"name": "locked"}))
                rejected.append(client.post("/api/v1/fire/sleep", params={"seconds": 600}))
            assert client.post("/api/v1/fire/lock", params={"name": "locked"}).is_success
        left = check_connections(one)
    assert all(is_retryable(response) for response in rejected)
    longest = max(response.elapsed.total_seconds() for response in rejected)
    assert longest < MAX_SECONDS
    assert not traffic.invalid
    assert traffic.outcomes["200"] > 0.9 * len(traffic.results), "other requests were delayed"
    waited = {"rejected": len(rejected), "longest until rejected, s": round(longest, 1)}
    note(**traffic.figures, **waited, connections_left=left)


def test_requests_recover_through_pgbouncer(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    one, other = two
    after = {}
    with (
        pgbouncer(proxy.port, POOL) as bouncer,
        service(environment, tmp_path, bouncer.port, DB_PGBOUNCER="true") as server,
    ):
        with run_load(server, BOTH, READ) as traffic:
            for fault in (restarted, killed, hung):
                traffic.wait_for_recovery()
                fault(one, proxy)
                after[f"s until served after {fault.__name__}"] = traffic.wait_for_recovery()
            bouncer.restart()
            after["s until served after PgBouncer restarted"] = traffic.wait_for_recovery()
            proxy.target = other.port
            disconnected(one, proxy)
            wait_for_items(other)
            after["s until served after disconnected"] = traffic.wait_for_recovery()
            wait_until(lambda: readiness(server) == "ready")
        left = check_connections(one, other)
    assert not traffic.invalid
    assert traffic.longest < MAX_SECONDS
    check_consistency(traffic, one, other)
    note(**traffic.figures, connections_left=left, **after)
