"""Runs the migrations. Each part that owns tables has a branch of its own, named after it.

So a part can come and go without breaking a chain. Your own migrations go onto the branch ``app``
and run after all that the parts had when you wrote them.
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
from app.platform.data.database import Base, create_engine
from app.platform.data.migrations import LOCK_TIMEOUT
from app.platform.data.revisions import without_removed_branches
from app.settings import get_settings

BRANCH = "app"
# Any number will do, as long as every migrator takes the same.
LOCK = 7_539_201
TURN = 0.5  # seconds between two looks whether another migrator has finished
# A migration that waits for a table makes all traffic of that table wait behind it. So it waits for
# a moment only, lets the traffic through, and tries again, for three minutes in all.
PAUSES = (1, 1, 2, 3, 5, 5, *[10] * 14)  # seconds
# https://www.postgresql.org/docs/current/errcodes-appendix.html
AGAIN = {"55P03": "a table that others use is not free", "40P01": "it met others in a deadlock"}


def onto_own_branch(
    _context: MigrationContext, _revision: Any, directives: Iterable[MigrationScript]
) -> None:
    """Put a new migration on the branch ``app``, after the heads of all the others."""
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
        process_revision_directives=onto_own_branch,
        compare_server_default=True,
        transaction_per_migration=True,
        **options,
    )


def leave_alone_what_is_gone(migrations: MigrationContext) -> None:
    """Go by the parts that there are, whatever others were in this database before."""
    heads = migrations.get_current_heads
    migrations.get_current_heads = lambda: without_removed_branches(heads(), context.script)


def run(connection: Connection) -> None:
    wait_for_turn(connection)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    for pause in PAUSES:
        try:
            return run_once(connection)
        except DBAPIError as error:
            problem = AGAIN.get(getattr(error.orig, "sqlstate", ""))
            if not problem:
                raise
            connection.rollback()
            click.echo(f"The migration tries again in {pause} s: {problem}.", err=True)
        time.sleep(pause)
    return run_once(connection)


def wait_for_turn(connection: Connection) -> None:
    """Of two migrators at once, let the second wait, and then find nothing to do.

    It asks again and again, since a waiting statement is one that the other's ``CREATE INDEX
    CONCURRENTLY`` would wait for.
    """
    asked = text(f"SELECT pg_try_advisory_lock({LOCK})")
    while not connection.scalar(asked):
        connection.commit()
        time.sleep(TURN)
    connection.commit()


def run_once(connection: Connection) -> None:
    """Run what is missing, each migration in a transaction of its own."""
    configure(connection=connection)
    leave_alone_what_is_gone(context.get_context())
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    # Straight to Postgres, without the service's statement time-out: building an index takes time.
    settings = get_settings()
    engine = create_engine(settings.model_copy(update={"db_statement_timeout": 3600}))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


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
