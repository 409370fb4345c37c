"""`app migration`: a new migration from the difference between the migrations and the models."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import click
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from app.platform import about
from app.platform.data.revisions import own_heads
from app.platform.dev.servers import postgres


def write(message: str, *, empty: bool) -> Script | None:
    """Write a migration called `message`; return it, or `None` if there was nothing to write.

    The migrations that there are run in a Postgres of their own, so that nobody's database matters.
    `empty` writes one although the models say nothing new. Raises `ServerError`, and
    `ClickException` if your migrations have two heads.
    """
    config = Config(toml_file=about.project_folder() / "pyproject.toml")
    scripts = ScriptDirectory.from_config(config)
    heads = own_heads(scripts)
    if len(heads) > 1:
        found = ", ".join(Path(scripts.get_revision(head).path).name for head in heads)
        raise click.ClickException(
            f"Your migrations have {len(heads)} heads: {found}. None of them comes after the other."
            ' Merge them with `app migration --merge "merge heads"`.'
        )

    def revise(connection: Connection) -> Script | None:
        config.attributes.update(connection=connection, empty=empty)
        command.upgrade(config, "heads")
        written = command.revision(config, message, autogenerate=True)
        return written if isinstance(written, Script) else None

    return _in_a_database(revise)


def merge(message: str) -> Script | None:
    """Write a migration that comes after all heads of your own; `None` if there is only one."""
    config = Config(toml_file=about.project_folder() / "pyproject.toml")
    heads = own_heads(ScriptDirectory.from_config(config))
    if len(heads) < 2:
        return None

    def join(connection: Connection) -> Script | None:
        config.attributes["connection"] = connection
        return command.merge(config, heads, message)

    return _in_a_database(join)


def _in_a_database(work: Callable[[Connection], Script | None]) -> Script | None:
    async def run(url: str) -> Script | None:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            written = await connection.run_sync(work)
        await engine.dispose()
        return written

    with postgres() as url:
        return asyncio.run(run(url))


def lint(migration: Script) -> str:
    """Squawk's findings about a migration, for example that it would block traffic.

    It skips the rules in the migration's `squawk_excluded`, a tuple of their names.
    """
    excluded = getattr(migration.module, "squawk_excluded", ())
    found = subprocess.run(  # noqa: S603
        [
            str(Path(sys.executable).with_name("squawk")),
            *("--config", str(about.project_folder() / ".squawk.toml")),
            *(f"--exclude={rule}" for rule in excluded),
        ],
        input=_sql(migration),
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout if found.returncode else ""


def _sql(migration: Script) -> str:
    sql = StringIO()
    options = {"as_sql": True, "output_buffer": sql, "literal_binds": True}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with context.begin_transaction(), Operations.context(context):
        migration.module.upgrade()
    return sql.getvalue()
