"""The lock that keeps migrators apart, and reports of what a migration is waiting for."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import click
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.base.errors import DatabaseUnavailable
from app.platform.base.tasks import cancel
from app.platform.data.engine import create_engine
from app.platform.settings import PlatformSettings, SettingsError
from app.platform.settings.sources import ERROR_HEADER

ADVISORY_LOCK = 7_539_201  # an arbitrary number that all migrators share
POLL_INTERVAL = 0.5  # seconds; shorter than LOCK_TIMEOUT, so that each wait for a table is seen

DIRECT_URL = (
    f"{ERROR_HEADER}\n  MIGRATION_DATABASE_URL: {{}}. Set it to the address of Postgres itself:"
    " through PgBouncer in transaction mode, the migrator's lock and its settings would stay"
    " behind on connections of other clients"
)

# What Postgres does not show to this user is NULL, and left out.
_SESSIONS = """
    SELECT pid, concat_ws(', ', 'process ' || pid, nullif(application_name, ''),
        'user ' || usename, 'from ' || host(client_addr),
        'connected since ' || date_trunc('second', backend_start), state) AS description
    FROM pg_stat_activity WHERE pid IN
"""
_MIGRATORS = text(f"""{_SESSIONS} (
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND classid = 0 AND objid = {ADVISORY_LOCK} AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
""")  # noqa: S608
_BLOCKERS = text(f"{_SESSIONS} (SELECT unnest(pg_blocking_pids(:pid))) ORDER BY pid")
_PID = text("SELECT pg_backend_pid()")


def direct_settings(settings: PlatformSettings) -> PlatformSettings:
    """The settings with which to migrate: a direct connection, and an hour for each statement.

    Raises ``SettingsError`` if only PgBouncer's address is known. Building an index may take far
    longer than the service's statement timeout allows.
    """
    if settings.db_pgbouncer and not settings.migration_database_url:
        raise SettingsError(DIRECT_URL.format("is missing, and DB_PGBOUNCER is true"))
    changes = {
        "database_url": settings.migration_database_url or settings.database_url,
        "db_pgbouncer": False,
        "db_statement_timeout": 3600,
        "db_pool_size": 2,  # the migration, and the report of what it waits for
    }
    return settings.model_copy(update=changes)


def acquire_advisory_lock(connection: Connection) -> None:
    """Wait until no other migrator is running, and report which one it is.

    It polls, because a blocked ``pg_advisory_lock`` would in turn block the other migrator's
    ``CREATE INDEX CONCURRENTLY``.
    """
    statement = text(f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})")
    reported = ""
    while not connection.scalar(statement):
        reported = _report("another migration", connection.execute(_MIGRATORS).all(), reported)
        connection.commit()
        time.sleep(POLL_INTERVAL)
    connection.commit()


@asynccontextmanager
async def migration_connection(settings: PlatformSettings) -> AsyncIterator[AsyncConnection]:
    """A direct connection for migrations; a second one reports the sessions that it waits for.

    Raises ``SettingsError`` if both share a server process: that is a pooler in transaction mode.
    """
    engine = create_engine(direct_settings(settings))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        try:
            connection = await stack.enter_async_context(engine.connect())
        except (DatabaseUnavailable, DBAPIError) as error:
            reason = str(error.__cause__)
            if "startup parameter" in reason:  # PgBouncer's answer to statement_timeout
                raise SettingsError(DIRECT_URL.format("leads to a connection pooler")) from None
            raise click.ClickException(f"Can't connect to Postgres: {reason}") from None
        pid = (await connection.execute(_PID)).scalar_one()
        await connection.commit()
        other = await stack.enter_async_context(engine.connect())
        if await other.scalar(_PID) == pid:
            raise SettingsError(DIRECT_URL.format("leads to a connection pooler"))
        reports = asyncio.create_task(_report_blockers(other, pid))
        try:
            yield connection
        finally:
            await cancel(reports)


async def _report_blockers(connection: AsyncConnection, migrator: int) -> None:
    reported = ""
    while True:
        await connection.commit()  # an open transaction would itself block concurrent DDL
        await asyncio.sleep(POLL_INTERVAL)
        blockers = (await connection.execute(_BLOCKERS, {"pid": migrator})).all()
        reported = _report("a lock", blockers, reported)


def _report(what: str, sessions: Sequence[Row[int, str]], reported: str) -> str:
    """Report ``sessions`` if they are not those that were reported before; return the last ones."""
    found = "; ".join(session.description for session in sessions)
    if not found or found == reported:
        return reported
    ends = ", ".join(f"pg_terminate_backend({session.pid})" for session in sessions)
    click.echo(f"Waiting for {what}: {found}. To end it, run SELECT {ends};", err=True)
    return found
