"""Alembic environment. Each component with tables has its own branch of migrations.

Components can therefore be added and removed without breaking a chain of revisions. Your own
migrations are a branch without a label, so that two first ones can be merged; each depends on the
heads of all other branches at the time of writing.
"""

import asyncio
import time
from functools import partial
from typing import Any

import click
from alembic import context
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationInfo
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import app.main  # noqa: F401  (imports every model)
from app.platform import about
from app.platform.data import comparison
from app.platform.data.database import Base
from app.platform.data.migration_locks import acquire_advisory_lock, migration_connection
from app.platform.data.migrations import LOCK_TIMEOUT
from app.platform.data.revisions import component_heads, own_heads, without_removed_branches
from app.settings import get_settings

# All queries on a table queue behind a migration that waits for its lock. So each attempt waits
# for LOCK_TIMEOUT only; between attempts, queries proceed. In total, about three minutes.
RETRY_DELAYS = (1, 1, 2, 3, 5, 5, *[10] * 14)  # seconds
# https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRYABLE = {"55P03": "the lock on a table was not available", "40P01": "deadlock"}  # by SQLSTATE


def place_after_own_migrations(
    _context: MigrationContext, _revision: Any, directives: list[MigrationScript]
) -> None:
    """Put a new migration after your last one; it depends on the heads of all components.

    One that would be empty is not written, unless the attribute ``empty`` says so.
    """
    empty = context.config.attributes.get("empty", True)
    directives[:] = [each for each in directives if empty or not each.upgrade_ops.is_empty()]
    scripts = ScriptDirectory.from_config(context.config)
    for script in directives:
        if script.head == "head":
            script.head = next(iter(own_heads(scripts)), "base")
            script.depends_on = script.depends_on or component_heads(scripts) or None


def configure(**options: Any) -> None:
    context.configure(
        target_metadata=Base.metadata,
        process_revision_directives=place_after_own_migrations,
        **comparison.OPTIONS,
        transaction_per_migration=True,
        **options,
    )


def ignore_removed_branches(migrations: MigrationContext) -> None:
    """Ignore the revisions of components that have been removed from the service."""
    heads = migrations.get_current_heads
    migrations.get_current_heads = lambda: without_removed_branches(heads(), context.script)


def report(*, step: MigrationInfo, **_: Any) -> None:
    """Print the migration that was applied."""
    for script in step.up_revisions:
        click.echo(f"Applied {script.revision}: {script.doc}", err=True)


def run(connection: Connection, **options: Any) -> None:
    """Apply pending migrations, retrying when a lock is not available."""
    connection.execute(text(f"SET application_name = '{about.NAME} migrate'"))
    acquire_advisory_lock(connection)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    for delay in RETRY_DELAYS:
        try:
            return run_once(connection, **options)
        except DBAPIError as error:
            reason = RETRYABLE.get(getattr(error.orig, "sqlstate", ""))
            if not reason:
                raise
            connection.rollback()
            click.echo(f"Retrying the migration in {delay} s: {reason}.", err=True)
        time.sleep(delay)
    return run_once(connection, **options)


def run_once(connection: Connection, **options: Any) -> None:
    """Apply pending migrations, each in its own transaction."""
    configure(connection=connection, **options)
    ignore_removed_branches(context.get_context())
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    async with migration_connection(get_settings()) as connection:
        await connection.run_sync(partial(run, on_version_apply=report))
    click.echo("All migrations are applied.", err=True)


def offline() -> None:
    """Print the SQL instead of running it: ``app migrate --sql``."""
    configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
elif (connection := context.config.attributes.get("connection")) is not None:
    run(connection)
else:
    asyncio.run(online())
