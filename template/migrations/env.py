"""Alembic environment. Each component with tables has its own branch of migrations.

Components can therefore be added and removed without breaking a chain of revisions. Your own
migrations are on the branch ``app`` and depend on the heads of all other branches at the time of
writing.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import click
from alembic import context
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import app.main  # noqa: F401  (imports every model)
from app.platform import about
from app.platform.data.database import Base
from app.platform.data.migration_locks import acquire_advisory_lock, migration_connection
from app.platform.data.migrations import LOCK_TIMEOUT
from app.platform.data.revisions import without_removed_branches
from app.settings import get_settings

BRANCH = "app"
# All queries on a table queue behind a migration that waits for its lock. So each attempt waits
# for LOCK_TIMEOUT only; between attempts, queries proceed. In total, about three minutes.
RETRY_DELAYS = (1, 1, 2, 3, 5, 5, *[10] * 14)  # seconds
# https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRYABLE = {"55P03": "the lock on a table was not available", "40P01": "deadlock"}  # by SQLSTATE


def use_app_branch(
    _context: MigrationContext, _revision: Any, directives: Iterable[MigrationScript]
) -> None:
    """Put new migrations on the branch ``app``, depending on the heads of all other branches."""
    scripts = ScriptDirectory.from_config(context.config)
    heads = scripts.get_revisions("heads")
    own = [head for head in heads if head and BRANCH in head.branch_labels]
    others = [head.revision for head in heads if head and BRANCH not in head.branch_labels]
    for script in directives:
        if script.head == "head":
            script.head = f"{BRANCH}@head" if own else "base"
            script.branch_label = script.branch_label or (None if own else BRANCH)
            script.depends_on = script.depends_on or others or None


def configure(**options: Any) -> None:
    context.configure(
        target_metadata=Base.metadata,
        process_revision_directives=use_app_branch,
        compare_server_default=True,
        transaction_per_migration=True,
        **options,
    )


def ignore_removed_branches(migrations: MigrationContext) -> None:
    """Ignore the revisions of components that have been removed from the service."""
    heads = migrations.get_current_heads
    migrations.get_current_heads = lambda: without_removed_branches(heads(), context.script)


def run(connection: Connection) -> None:
    """Apply pending migrations, retrying when a lock is not available."""
    connection.execute(text(f"SET application_name = '{about.NAME} migrate'"))
    acquire_advisory_lock(connection)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    for delay in RETRY_DELAYS:
        try:
            return run_once(connection)
        except DBAPIError as error:
            reason = RETRYABLE.get(getattr(error.orig, "sqlstate", ""))
            if not reason:
                raise
            connection.rollback()
            click.echo(f"Retrying the migration in {delay} s: {reason}.", err=True)
        time.sleep(delay)
    return run_once(connection)


def run_once(connection: Connection) -> None:
    """Apply pending migrations, each in its own transaction."""
    configure(connection=connection)
    ignore_removed_branches(context.get_context())
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    async with migration_connection(get_settings()) as connection:
        await connection.run_sync(run)


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
