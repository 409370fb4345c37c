"""The migrations: they make what the models say, can be undone, and block nobody."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Connection, inspect

from app.db import Base
from tests.conftest import ROOT, connected, migrate

Made = Callable[..., URL]


async def tables(url: URL) -> set[str]:
    async with connected(url) as connection:
        names = await connection.run_sync(lambda c: inspect(c).get_table_names())
    return set(names) - {"alembic_version"}


async def test_the_migrations_make_what_the_models_say(new_database: Made, migrated: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, Base.metadata)

    async with connected(new_database(migrated)) as connection:
        assert await connection.run_sync(differences) == []


async def test_they_can_be_undone_and_done_again(new_database: Made, migrated: str) -> None:
    url = new_database(migrated)
    there = await tables(url)
    await migrate(url, "base", down=True)
    assert await tables(url) == set()
    await migrate(url)
    assert await tables(url) == there == set(Base.metadata.tables)


def test_two_migrators_at_once_do_the_work_once(
    new_database: Made, environment: dict[str, str]
) -> None:
    url = new_database().render_as_string(hide_password=False)
    command = [sys.executable, "-m", "app", "migrate"]
    both = [
        subprocess.Popen(command, env={**environment, "DATABASE_URL": url}, cwd=ROOT)
        for _ in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]


def lint(sql: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Ask squawk which statements would keep others waiting, or break the code that runs now."""
    file = tmp_path / "migrations.sql"
    file.write_text(sql)
    squawk = str(Path(sys.executable).with_name("squawk"))
    command = [squawk, "--config", str(ROOT / ".squawk.toml"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_migration_blocks(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "migrate", "--sql"]
    sql = subprocess.check_output(command, env=environment, cwd=ROOT, text=True)
    found = lint(sql, tmp_path)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "blocking",
    [
        "CREATE INDEX ix ON items (name);",
        "ALTER TABLE items ADD COLUMN size integer NOT NULL;",
        "ALTER TABLE items ALTER COLUMN name TYPE text;",
        "ALTER TABLE items DROP COLUMN name;",
        "ALTER TABLE items RENAME TO things;",
    ],
)
def test_a_migration_that_would_block_is_flagged(blocking: str, tmp_path: Path) -> None:
    assert lint(blocking, tmp_path).returncode != 0
