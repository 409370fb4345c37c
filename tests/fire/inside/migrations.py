"""Migrations with data, under load, during long transactions, concurrent and killed."""

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.data.database import Base
from tests.actors import sign_in
from tests.conftest import ROOT, migrate, open_connection
from tests.fire import _migrations
from tests.fire._migrations import Release
from tests.fire.conftest import FULL, Note
from tests.platform.data.test_migrations import squawk
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

TIMEOUT = 120.0  # seconds
TRANSACTION_SECONDS = 20 if FULL else 8  # a transaction blocks the migration for this long
ITEMS = "/api/v1/items"
EMAIL = "ada@example.com"


@pytest.fixture
def url(environment: dict[str, str]) -> URL:
    return make_url(environment["DATABASE_URL"])


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / "release")


async def output_of(process: "subprocess.Popen[str]") -> str:
    """Wait until a migrator has succeeded, and return its output."""
    output, _ = await asyncio.to_thread(process.communicate, None, TIMEOUT)
    assert process.returncode == 0, output
    return output


async def select(url: URL, statement: str) -> Any:
    async with open_connection(url, isolation_level="AUTOCOMMIT") as connection:
        return (await connection.execute(text(statement))).all()


async def until(url: URL, statement: str) -> Any:
    """Wait until a statement returns rows."""
    end = time.monotonic() + TIMEOUT
    while not (rows := await select(url, statement)):
        assert time.monotonic() < end, f"no rows: {statement}"
        await asyncio.sleep(0.1)
    return rows


async def row_counts(connection: AsyncConnection) -> dict[str, int]:
    """Number of rows per table."""
    return {
        name: (await connection.execute(text(f'SELECT count(*) FROM "{name}"'))).scalar_one()
        for name in Base.metadata.tables
    }


@asynccontextmanager
async def active_user(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A signed-in client that has created rows in every table."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
        client.headers.update(await sign_in(client, EMAIL))
        for number in range(20):
            (await client.post(ITEMS, json={"name": f"Anchor {number}"})).raise_for_status()
        (await client.post(f"{ITEMS}/export")).raise_for_status()
        yield client


async def test_downgrades_keep_the_data_of_other_branches(
    serve: Serve,
    url: URL,
    release: Release,
    environment: dict[str, str],
    create_database: Callable[..., URL],
    note: Note,
) -> None:
    server = serve(RATE_LIMIT="off")
    async with active_user(server), open_connection(url) as connection:
        await connection.execute(text("INSERT INTO job_schedules VALUES ('nightly', now())"))
        parts = "INSERT INTO item_parts SELECT id, 0, 'Shank', 1 FROM items"
        await connection.execute(text(parts))
        await connection.commit()
        await output_of(release.run(environment, "app", "users", "grant", EMAIL, "admin"))
        before = await row_counts(connection)
    assert all(before.values()), f"an empty table: {before}"
    assert server.stop() == 0

    release.add(_migrations.EXPAND, _migrations.CONTRACT)
    release.add(_migrations.INDEX, _migrations.NO_INDEX)
    for _ in range(2):
        await output_of(release.run(environment))
        await select(url, "UPDATE items SET size = 3 RETURNING size")
        await output_of(release.run(environment, "alembic", "downgrade", "app@base"))
    async with open_connection(url) as connection:
        assert await row_counts(connection) == before

    scripts = ScriptDirectory(str(ROOT / "migrations"))
    branches = {label for script in scripts.walk_revisions() for label in script.branch_labels}
    emptied: list[str] = []
    for branch in branches:
        copy = create_database(url.database)
        await migrate(copy, f"{branch}@base", down=True)
        await migrate(copy)
        async with open_connection(copy) as connection:
            now = await row_counts(connection)
        assert all(rows in (0, before[name]) for name, rows in now.items())
        emptied += [name for name, rows in now.items() if not rows]
    assert sorted(emptied) == sorted(before), "each table belongs to one branch"
    note(tables=len(before), branches=len(branches), rows_of_others_lost=0)


async def test_concurrent_migrators_run_one_at_a_time(
    url: URL, release: Release, environment: dict[str, str], note: Note
) -> None:
    release.add(_migrations.EXPAND)
    release.add(_migrations.INDEX)
    many = 5 if FULL else 2
    async with open_connection(url) as reader:
        await reader.execute(text("SELECT count(*) FROM items"))
        migrators = [release.run(environment) for _ in range(many)]
        # No migrator can change the table before the reader has finished, so all of them wait.
        sessions = "FROM pg_stat_activity WHERE application_name LIKE '% migrate'"
        await until(url, f"SELECT 1 {sessions} HAVING count(*) = {many}")
        trying = "FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE items%' AND state = 'active'"
        await until(url, f"SELECT 1 {trying}")
        for _ in range(20):
            assert len(await select(url, f"SELECT 1 {trying}")) <= 1, "several migrators at a time"
            await asyncio.sleep(0.1)
    for migrator in migrators:
        await output_of(migrator)
    assert await valid_indexes(url) == 1
    note(migrators=many, indexes=1)


async def valid_indexes(url: URL) -> int:
    names = "SELECT indexrelid::regclass::text name FROM pg_index WHERE indisvalid"
    return [row.name for row in await select(url, names)].count("ix_items_size")


async def test_a_killed_migration_is_rolled_back(
    url: URL, release: Release, environment: dict[str, str], note: Note
) -> None:
    release.add(_migrations.SLOW)
    first = release.run(environment)
    sleeping = "FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(30)%'"
    await until(url, f"SELECT 1 {sleeping}")
    first.kill()
    first.communicate()
    assert await select(url, "SELECT 1 FROM pg_tables WHERE tablename = 'slow'") == []
    # Postgres would only notice after the statement has finished.
    await select(url, f"SELECT pg_terminate_backend(pid) {sleeping}")
    release.replace_last(_migrations.SLOW.replace("30", "0"))
    await output_of(release.run(environment))
    assert len(await select(url, "SELECT 1 FROM slow")) == 1
    note(kills=1, half_done=0)


async def test_an_interrupted_index_build_can_be_repeated(
    url: URL, release: Release, environment: dict[str, str], note: Note
) -> None:
    release.add(_migrations.EXPAND)
    release.add(_migrations.INDEX)
    making = (
        "FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' "
        "AND pid <> pg_backend_pid()"
    )
    async with open_connection(url, isolation_level="REPEATABLE READ") as others:
        await others.execute(text("SELECT 1"))  # takes the snapshot
        first = release.run(environment)
        await until(url, f"SELECT 1 {making} AND wait_event_type = 'Lock'")
        await asyncio.sleep(1.5)  # longer than the lock timeout of a migration
        assert await select(url, f"SELECT 1 {making}"), "the concurrent index build was given up"
        first.kill()
        first.communicate()
        await select(url, f"SELECT pg_terminate_backend(pid) {making}")
    assert await valid_indexes(url) == 0
    await output_of(release.run(environment))
    assert await valid_indexes(url) == 1
    note(kills=1, invalid_indexes_left=0)


@asynccontextmanager
async def traffic(client: httpx2.AsyncClient) -> AsyncIterator[tuple[Counter[int], list[float]]]:
    """Continuous reads and writes of items: responses by status, and their durations."""
    answers: Counter[int] = Counter()
    seconds: list[float] = []

    async def ask(number: int) -> None:
        while True:
            began = time.monotonic()
            if number % 2:
                answer = await client.get(ITEMS)
            else:
                answer = await client.post(ITEMS, json={"name": "Anchor"})
            answers[answer.status_code] += 1
            seconds.append(time.monotonic() - began)

    tasks = [asyncio.create_task(ask(number)) for number in range(6)]
    try:
        yield answers, seconds
        assert not any(task.done() for task in tasks), tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_old_release_serves_requests_during_a_migration(
    serve: Serve, url: URL, release: Release, environment: dict[str, str], note: Note
) -> None:
    release.add(_migrations.EXPAND)
    release.add(_migrations.INDEX)
    server = serve(RATE_LIMIT="off")
    async with active_user(server) as client, traffic(client) as (answers, seconds):
        async with open_connection(url) as report:  # a long transaction that reads items
            await report.execute(text("SELECT count(*) FROM items"))
            migrator = release.run(environment)
            await until(url, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE items%'")
            before = answers.total()
            await asyncio.sleep(TRANSACTION_SECONDS)
            assert migrator.poll() is None
            assert answers.total() > before, "requests hang while the migrator waits"
        output = await output_of(migrator)
        await asyncio.sleep(0.5)
    assert set(answers) == {200, 201}, answers
    assert max(seconds) < TRANSACTION_SECONDS / 2
    assert "Retrying the migration in" in output
    assert await valid_indexes(url) == 1
    note(
        requests=answers.total(),
        failed=0,
        long_transaction_s=TRANSACTION_SECONDS,
        slowest_request_s=round(max(seconds), 1),
        tries=output.count("Retrying the migration") + 1,
    )


# Blocking operations, and the SQL that squawk reports for them.
BLOCKING = {
    'op.create_index("ix", "items", ["name"])': "CREATE INDEX ix ON items",
    'op.add_column("items", sa.Column("size", sa.Integer(), nullable=False))': "ADD COLUMN size",
    'op.alter_column("items", "name", type_=sa.String(300))': "ALTER COLUMN name TYPE",
    'op.alter_column("items", "description", nullable=False)': "description SET NOT NULL",
    'op.create_check_constraint("few", "items", "version < 9")': "CHECK (version < 9)",
    'op.create_unique_constraint("uq", "items", ["name"])': "UNIQUE (name)",
    'op.drop_column("items", "owner")': "DROP COLUMN owner",
    'op.rename_table("items", "things")': "RENAME TO things",
}


def test_blocking_migrations_are_reported(
    tmp_path: Path, environment: dict[str, str], note: Note
) -> None:
    good, bad = Release(tmp_path / "good"), Release(tmp_path / "bad")
    good.add(_migrations.EXPAND)
    good.add(_migrations.INDEX)
    for operation in BLOCKING:
        bad.add(operation)
    assert reported(good, environment) == ""
    report = reported(bad, environment)
    for operation, sql in BLOCKING.items():
        assert sql in report, operation
    note(reported=len(BLOCKING), passed=2)


def reported(release: Release, environment: dict[str, str]) -> str:
    """Report of squawk on the SQL of ``app migrate``."""
    migrator = release.run(environment, "app", "migrate", "--sql")
    sql, _ = migrator.communicate(timeout=TIMEOUT)
    assert migrator.returncode == 0, sql
    report = squawk(sql, release.folder)
    return report.stdout if report.returncode else ""
