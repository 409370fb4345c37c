"""Runs the migrations. Each part that owns tables has a branch of its own, named after it.

So a part can come and go without breaking a chain. Your own migrations go onto the branch ``app``
and run after all that the parts had when you wrote them.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import app.main  # noqa: F401  (imports every model)
from app.db import Base, create_engine
from app.revisions import of_present_parts
from app.settings import get_settings

BRANCH = "app"
# Any number will do, as long as every migrator takes the same.
LOCK = 7_539_201
# Rather fail and be run again than queue behind a long query, with all traffic queueing behind us.
LOCK_TIMEOUT = "5s"


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
    migrations.get_current_heads = lambda: of_present_parts(heads(), context.script)


def run(connection: Connection) -> None:
    # Two migrators at once: the second waits here, and then finds nothing to do.
    connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
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
