"""Postgres is away, hangs, is full, is another one: answers are clear, and nothing is left behind.

Each test runs Gunicorn with two workers under a load of transactions that write an item and its
job, and of reads. What was answered is compared with what is in the database in the end.
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
    BOUND,
    PATIENCE,
    Load,
    Machine,
    Way,
    eventually,
    is_clear,
    load,
    machine,
    ready,
    serving,
    way,
)
from tests.fire._pgbouncer import pgbouncer
from tests.fire.conftest import FULL, Note
from tests.system.serving import Server

BOTH, READ = "/api/v1/fire/both", "/api/v1/fire/read"
POOL = 4  # connections of each of the two workers
OUTAGE = 10.0 if FULL else 1.5  # seconds
HELD = 60.0 if FULL else 4.0  # seconds
TIMES = {} if FULL else {"DB_STATEMENT_TIMEOUT": "2", "DB_POOL_TIMEOUT": "2"}
ROOM, RESERVED = 30, 3  # connections that a server has, and those for its administrator
LIMITS = ("-c", f"max_connections={ROOM + RESERVED}")


def url_of(port: int) -> URL:
    return URL.create("postgresql+asyncpg", "postgres", None, "127.0.0.1", port, "postgres")


def ask(server: Machine, statement: str) -> list[Any]:
    """Run a statement over a connection of its own; return the first column."""
    found: list[Any] = []

    async def run() -> None:
        async with open_connection(url_of(server.port), isolation_level="AUTOCOMMIT") as connection:
            answer = await connection.execute(text(statement))
            found.extend(answer.scalars() if answer.returns_rows else ())

    run_sync(run())
    return found


@pytest.fixture(scope="module")
def _two() -> Iterator[tuple[Machine, Machine]]:
    with machine(POSTGRES, *LIMITS) as one, machine(POSTGRES, *LIMITS) as other:
        for server in (one, other):
            run_sync(migrate(url_of(server.port)))
        yield one, other


@pytest.fixture
def two(_two: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    """Two servers with the tables of the service, and nothing in them."""
    for server in _two:
        ask(server, "TRUNCATE items, jobs")
    return _two


@pytest.fixture
def link(two: tuple[Machine, Machine]) -> Iterator[Way]:
    """The way on which the service finds its database: the first one, to begin with."""
    with way(two[0].port) as link:
        yield link


@contextmanager
def service(
    environment: dict[str, str], folder: Path, port: int, **changes: str
) -> Iterator[Server]:
    """Run the service with the database at a port."""
    url = url_of(port).render_as_string()
    given = {"DATABASE_URL": url, "RATE_LIMIT": "off", "DB_POOL_SIZE": str(POOL)}
    with serving(environment, folder, **given, **TIMES, **changes) as server:
        yield server
        assert server.stop() == 0


def check_books(answers: Load, *databases: Machine) -> None:
    """Compare what was answered with what is there."""
    items, jobs = (
        {row for server in databases for row in ask(server, statement)}
        for statement in ("SELECT name FROM items", "SELECT arguments->>'owner' FROM jobs")
    )
    written = {a for a in answers.answers if a.name in items}
    unknown = {a for a in answers.answers if a.code == "outcome_unknown"}
    wrote = {a for a in answers.answers if a.path == BOTH}
    assert items == jobs, "a transaction was done by half"
    assert {a for a in wrote if a.status == 200} - written == set(), "a commit was lost"
    assert {a for a in wrote if a.status != 200} & written <= unknown, "an error was a success"


def counts_none(server: Machine, statement: str) -> bool:
    return ask(server, statement) == [0]


def check_connections(*databases: Machine) -> int:
    """Look on the servers for connections that nobody uses any more; return how many are open."""
    count = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    for database in databases:
        eventually(partial(counts_none, database, count + " AND state <> 'idle'"))
    left = sum(ask(database, count)[0] for database in databases)
    assert left <= 2 * POOL
    return int(left)


def test_it_starts_without_postgres_and_is_ready_when_postgres_is(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    link.cut()
    with service(environment, tmp_path, link.port) as server, load(server, BOTH, READ) as answers:
        answers.fails()
        assert ready(server) == "not_ready"
        assert server.get("/health/live").status_code == 200
        link.mend()
        eventually(lambda: ready(server) == "ready")
        seconds = answers.recovers()
    assert not answers.bad
    check_books(answers, two[0])
    note(**answers.figures, seconds_until_served=seconds)


def killed(one: Machine, link: Way) -> None:
    one.kill()
    time.sleep(OUTAGE)
    one.start()


def restarted(one: Machine, link: Way) -> None:
    one.shut_down()
    one.start()


def unreachable(one: Machine, link: Way) -> None:
    link.cut()
    time.sleep(OUTAGE)
    link.mend()


def hung(one: Machine, link: Way) -> None:
    one.signal(signal.SIGSTOP)
    time.sleep(4 * OUTAGE)
    one.signal(signal.SIGCONT)


def test_an_outage_costs_no_more_than_its_time(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    one, faults = two[0], (killed, restarted, unreachable, hung) * (5 if FULL else 1)
    after = {}
    with service(environment, tmp_path, link.port) as server:
        with load(server, BOTH, READ) as answers:
            for fault in faults:
                answers.recovers()
                fault(one, link)
                after[f"s until served after {fault.__name__}"] = answers.recovers()
                eventually(lambda: ready(server) == "ready")
        left = check_connections(one)
        eventually(lambda: "db_pool_connections_used 0.0" in server.get("/metrics").text)
    assert not answers.bad
    assert answers.longest < BOUND
    check_books(answers, one)
    note(**answers.figures, faults=len(faults), connections_left=left, **after)


def leads_elsewhere(old: Machine, link: Way) -> None:
    """The old one is gone, and says so."""
    link.cut()
    link.mend()


def gone_without_a_word(old: Machine, link: Way) -> None:
    """The old one is gone, and its connections stay open: nobody is left to close them."""
    link.fall_silent()


def demoted(old: Machine, link: Way) -> None:
    """The old one is a standby now: it reads, and can't write."""
    ask(old, "ALTER SYSTEM SET default_transaction_read_only = on")
    ask(old, "SELECT pg_reload_conf()")


def wait_for_items(server: Machine) -> None:
    """Wait until the service writes to a server."""
    count = "SELECT count(*) FROM items"
    before = ask(server, count)
    eventually(lambda: ask(server, count) > before)


def test_a_failover_is_followed(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    old, new = two
    after = {}
    with service(environment, tmp_path, link.port) as server:
        with load(server, BOTH, READ) as answers:
            for fault in (leads_elsewhere, gone_without_a_word, demoted):
                answers.recovers()
                link.target = new.port
                fault(old, link)
                wait_for_items(new)
                after[f"s until served after {fault.__name__}"] = answers.recovers()
                eventually(lambda: ready(server) == "ready")
                old, new = new, old
        left = check_connections(new, old)
    ask(new, "ALTER SYSTEM RESET ALL")
    ask(new, "SELECT pg_reload_conf()")
    assert not answers.bad
    assert answers.longest < BOUND
    check_books(answers, old, new)
    note(**answers.figures, connections_left=left, **after)


@contextmanager
def meanwhile(work: Callable[[], Awaitable[list[asyncpg.Connection]]]) -> Iterator[None]:
    """Hold the connections that ``work`` opens, and close them in the end."""
    ready_, stop = threading.Event(), threading.Event()

    async def hold() -> None:
        held = await work()
        ready_.set()
        await asyncio.to_thread(stop.wait)
        for connection in held:
            connection.terminate()

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(asyncio.run, hold())
        try:
            eventually(lambda: ready_.is_set() or holding.done())
            yield
        finally:
            stop.set()
            holding.result(PATIENCE)


async def connect(server: Machine) -> asyncpg.Connection:
    where = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "database": "postgres"}
    return await asyncpg.connect(**where, server_settings={"application_name": "crowd"})


async def crowd(server: Machine) -> list[asyncpg.Connection]:
    """Take every connection that there is; whoever has one loses it."""
    held = [await connect(server)]
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND application_name <> 'crowd'"
    )
    while len(held) < ROOM + RESERVED:
        await held[0].execute(others)
        with suppress(asyncpg.PostgresError):
            held.append(await connect(server))
    return held


def test_a_server_that_is_full_is_waited_for(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    one = two[0]
    with service(environment, tmp_path, link.port) as server, load(server, BOTH, READ) as answers:
        answers.recovers()
        with meanwhile(lambda: crowd(one)):
            answers.fails()
            eventually(lambda: ready(server) == "not_ready")
            time.sleep(OUTAGE)
        seconds = answers.recovers()
        eventually(lambda: ready(server) == "ready")
    assert not answers.bad
    check_books(answers, one)
    assert "TooManyConnectionsError" in server.log.read_text()
    note(**answers.figures, seconds_until_served=seconds)


async def lock(server: Machine) -> list[asyncpg.Connection]:
    """Change an item, and don't commit."""
    connection = await connect(server)
    await connection.execute("BEGIN")
    await connection.execute("UPDATE items SET version = version WHERE name = 'locked'")
    return [connection]


def test_a_hung_statement_and_a_held_lock_cost_those_who_wait_for_them(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    one = two[0]
    with service(environment, tmp_path, link.port) as server:
        ask_for = httpx2.Client(base_url=server.url, timeout=PATIENCE)
        with ask_for, load(server, BOTH, READ, clients=3) as answers:
            assert ask_for.post(BOTH, params={"name": "locked"}).is_success
            refused = []
            with meanwhile(lambda: lock(one)):
                end = time.monotonic() + HELD
                while time.monotonic() < end:
                    refused.append(ask_for.post("/api/v1/fire/lock", params={"name": "locked"}))
                refused.append(ask_for.post("/api/v1/fire/sleep", params={"seconds": 600}))
            assert ask_for.post("/api/v1/fire/lock", params={"name": "locked"}).is_success
        left = check_connections(one)
    assert all(is_clear(answer) for answer in refused)
    longest = max(answer.elapsed.total_seconds() for answer in refused)
    assert longest < BOUND
    assert not answers.bad
    assert answers.outcomes["200"] > 0.9 * len(answers.answers), "others had to wait, too"
    waited = {"refused": len(refused), "longest until refused, s": round(longest, 1)}
    note(**answers.figures, **waited, connections_left=left)


def test_the_same_holds_through_pgbouncer(
    two: tuple[Machine, Machine], link: Way, environment: dict[str, str], tmp_path: Path, note: Note
) -> None:
    one, other = two
    after = {}
    with (
        pgbouncer(link.port, POOL) as bouncer,
        service(environment, tmp_path, bouncer.port, DB_PGBOUNCER="true") as server,
    ):
        with load(server, BOTH, READ) as answers:
            for fault in (restarted, killed, hung):
                answers.recovers()
                fault(one, link)
                after[f"s until served after {fault.__name__}"] = answers.recovers()
            bouncer.restart()
            after["s until served after PgBouncer restarted"] = answers.recovers()
            link.target = other.port
            leads_elsewhere(one, link)
            wait_for_items(other)
            after["s until served after leads_elsewhere"] = answers.recovers()
            eventually(lambda: ready(server) == "ready")
        left = check_connections(one, other)
    assert not answers.bad
    assert answers.longest < BOUND
    check_books(answers, one, other)
    note(**answers.figures, connections_left=left, **after)
