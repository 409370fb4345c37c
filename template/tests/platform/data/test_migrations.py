"""Migrations match the models, can be reverted, and do not block queries."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, inspect, make_url, text

from app.platform.data.comparison import differences
from app.platform.data.database import Base
from app.platform.data.migrations import create_index, drop_index
from app.platform.dev.migration import lint
from app.settings import Settings
from tests.commands import run_command
from tests.conftest import ROOT, migrate, open_connection, run_sync

NewDatabase = Callable[..., URL]
SCRIPTS = ScriptDirectory.from_config(Config(toml_file=str(ROOT / "pyproject.toml")))
REVISIONS = sorted(script.revision for script in SCRIPTS.walk_revisions())


async def tables(url: URL) -> set[str]:
    async with open_connection(url) as connection:
        names = await connection.run_sync(lambda c: inspect(c).get_table_names())
    return set(names) - {"alembic_version"}


async def test_the_migrated_schema_matches_the_models(
    create_database: NewDatabase, migrated_template: str
) -> None:
    async with open_connection(create_database(migrated_template)) as connection:
        assert await connection.run_sync(differences) == []


async def test_migrations_can_be_reverted_and_reapplied(
    create_database: NewDatabase, migrated_template: str
) -> None:
    url = create_database(migrated_template)
    before = await tables(url)
    await migrate(url, "base", down=True)
    assert await tables(url) == set()
    await migrate(url)
    assert await tables(url) == before == set(Base.metadata.tables)


async def applied_revisions(url: URL) -> set[str]:
    def heads(connection: Connection) -> set[str]:
        return {*MigrationContext.configure(connection).get_current_heads()}

    async with open_connection(url) as connection:
        return await connection.run_sync(heads)


async def insert_revision(url: URL, revision: str) -> None:
    table = "CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY)"
    async with open_connection(url) as connection:
        await connection.execute(text(table))  # the service may have no migrations yet
        await connection.execute(text(f"INSERT INTO alembic_version VALUES ('{revision}')"))
        await connection.commit()


async def test_revisions_of_a_removed_component_are_ignored(
    create_database: NewDatabase,
) -> None:
    url = create_database()
    await migrate(url)
    before = await applied_revisions(url)
    await insert_revision(url, "removed_0003")
    await migrate(url, "base", down=True)
    assert await applied_revisions(url) == {"removed_0003"}
    await migrate(url)
    assert await applied_revisions(url) == {"removed_0003", *before}


def test_check_accepts_revisions_of_a_removed_component(
    fresh_settings: Settings, environment: dict[str, str]
) -> None:
    url = make_url(fresh_settings.database_url.get_secret_value())
    run_sync(insert_revision(url, "removed_0003"))
    assert "ok  migrations   all applied" in run_command("check", env=environment).stdout


async def test_a_database_ahead_of_the_code_is_rejected(
    create_database: NewDatabase, migrated_template: str
) -> None:
    known = await applied_revisions(create_database(migrated_template))
    unknown = ["0123456789ab", *(f"{each[:-4]}9999" for each in known if "_0" in each)]
    for revision in unknown:
        url = create_database(migrated_template)
        await insert_revision(url, revision)
        with pytest.raises(CommandError, match=revision):
            await migrate(url)


async def test_the_helpers_replace_an_index_and_drop_it(create_database: NewDatabase) -> None:
    def indexes(connection: Connection) -> list[Any]:
        return [
            index["column_names"] for index in inspect(connection).get_indexes("boxes_of_a_test")
        ]

    def use_helpers(connection: Connection) -> None:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(), Operations.context(context):
            connection.execute(text("CREATE TABLE boxes_of_a_test (height int, width int)"))
            connection.execute(text("CREATE INDEX ix_boxes_of_a_test ON boxes_of_a_test (height)"))
            create_index("ix_boxes_of_a_test", "boxes_of_a_test", ["width"])
            assert indexes(connection) == [["width"]]
            drop_index("ix_boxes_of_a_test", "boxes_of_a_test")
            assert indexes(connection) == []
            drop_index("ix_boxes_of_a_test", "boxes_of_a_test")

    async with open_connection(create_database()) as connection:
        await connection.run_sync(use_helpers)


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_migration_blocks_queries(revision: str) -> None:
    assert lint(SCRIPTS.get_revision(revision)) == ""


def squawk(sql: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run squawk, which reports statements that block queries or break the running release."""
    file = tmp_path / "migrations.sql"
    file.write_text(sql)
    program = str(Path(sys.executable).with_name("squawk"))
    command = [program, "--config", str(ROOT / ".squawk.toml"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix ON items (name);",
        "ALTER TABLE items ADD COLUMN size integer NOT NULL;",
        "ALTER TABLE items ALTER COLUMN name TYPE text;",
        "ALTER TABLE items DROP COLUMN name;",
        "ALTER TABLE items RENAME TO things;",
    ],
)
def test_a_blocking_migration_is_reported(statement: str, tmp_path: Path) -> None:
    assert squawk(statement, tmp_path).returncode != 0
