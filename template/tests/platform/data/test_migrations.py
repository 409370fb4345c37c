"""The migrations: they make what the models say, can be undone, and block nobody."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import URL, Connection, inspect, make_url, text

from app.platform.data.database import Base
from app.settings import Settings
from tests.commands import run
from tests.conftest import ROOT, connected, migrate, wait_for

Made = Callable[..., URL]


async def tables(url: URL) -> set[str]:
    async with connected(url) as connection:
        names = await connection.run_sync(lambda c: inspect(c).get_table_names())
    return set(names) - {"alembic_version"}


async def test_the_migrations_make_what_the_models_say(new_database: Made, migrated: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        found: list[Any] = compare_metadata(context, Base.metadata)
        return found

    async with connected(new_database(migrated)) as connection:
        assert await connection.run_sync(differences) == []


async def test_they_can_be_undone_and_done_again(new_database: Made, migrated: str) -> None:
    url = new_database(migrated)
    there = await tables(url)
    await migrate(url, "base", down=True)
    assert await tables(url) == set()
    await migrate(url)
    assert await tables(url) == there == set(Base.metadata.tables)


async def applied(url: URL) -> set[str]:
    def heads(connection: Connection) -> set[str]:
        return {*MigrationContext.configure(connection).get_current_heads()}

    async with connected(url) as connection:
        return await connection.run_sync(heads)


async def add_applied(url: URL, revision: str) -> None:
    table = "CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY)"
    async with connected(url) as connection:
        await connection.execute(text(table))  # a service may have no migration yet
        await connection.execute(text(f"INSERT INTO alembic_version VALUES ('{revision}')"))
        await connection.commit()


async def test_a_part_that_is_gone_leaves_the_database_to_the_others(
    new_database: Made,
) -> None:
    url = new_database()
    await migrate(url)
    before = await applied(url)
    await add_applied(url, "gone_0003")
    await migrate(url, "base", down=True)
    assert await applied(url) == {"gone_0003"}
    await migrate(url)
    assert await applied(url) == {"gone_0003", *before}


def test_nothing_is_wrong_with_such_a_database(
    fresh_settings: Settings, environment: dict[str, str]
) -> None:
    url = make_url(fresh_settings.database_url.get_secret_value())
    wait_for(add_applied(url, "gone_0003"))
    assert "ok  migrations   all applied" in run("check", env=environment).stdout


async def test_a_database_that_is_ahead_of_this_code_is_refused(
    new_database: Made, migrated: str
) -> None:
    known = await applied(new_database(migrated))
    for ahead in ("0123456789ab", *(f"{each[:-4]}9999" for each in known if "_0" in each)):
        url = new_database(migrated)
        await add_applied(url, ahead)
        with pytest.raises(CommandError, match=ahead):
            await migrate(url)


def lint(sql: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Ask squawk which statements would keep others waiting, or break the code that runs now."""
    file = tmp_path / "migrations.sql"
    file.write_text(sql)
    squawk = str(Path(sys.executable).with_name("squawk"))
    command = [squawk, "--config", str(ROOT / ".squawk.toml"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_migration_blocks(environment: dict[str, str], tmp_path: Path) -> None:
    written = run("migrate", "--sql", env=environment)
    assert written.returncode == 0, written.stderr
    found = lint(written.stdout, tmp_path)
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
