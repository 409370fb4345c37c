"""The engine: how connections to Postgres are opened and replaced, and what an outage raises."""

import json
import time
from typing import Any
from uuid import uuid4

import asyncpg  # noqa: TID251 (to tell an outage from other errors)
from pydantic_core import from_json
from sqlalchemy import ExceptionContext, NullPool, event
from sqlalchemy.exc import DisconnectionError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from app.platform import about
from app.platform.base.errors import DatabaseUnavailable, SchemaChanged
from app.platform.data.credentials import follow_database_url
from app.platform.settings import PlatformSettings

READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction: a write on a standby
# Seconds after Postgres' own statement_timeout until the driver gives up on an unresponsive server.
TIMEOUT_MARGIN = 1.0


async def _connect(*args: Any, **options: Any) -> Any:
    """Connect; any failure of it is an outage: refused, timed out, a name, a login."""
    try:
        return await asyncpg.connect(*args, **options)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable from error


def create_engine(settings: PlatformSettings, *, pooled: bool = True) -> AsyncEngine:
    """An engine that connects at first use; unless ``pooled``, anew for each use.

    What the driver raises for an outage, and nothing else, is a ``DatabaseUnavailable``, or a
    ``DBAPIError`` with an SQLSTATE.
    """
    connect_args: dict[str, Any] = {
        "async_creator_fn": _connect,
        "timeout": settings.db_pool_timeout,
        "command_timeout": settings.db_statement_timeout,
    }
    if settings.db_pgbouncer:
        # PgBouncer may prepare each statement on a different server connection, so prepared
        # statement names must never repeat.
        connect_args["prepared_statement_name_func"] = lambda: f"__{uuid4()}__"
        connect_args["prepared_statement_cache_size"] = 0
        connect_args["statement_cache_size"] = 0
    else:
        connect_args["command_timeout"] += TIMEOUT_MARGIN
        connect_args["server_settings"] = {
            "application_name": about.NAME,
            "statement_timeout": str(int(settings.db_statement_timeout * 1000)),
            "idle_in_transaction_session_timeout": str(int(settings.request_timeout * 2000)),
        }
    pooled = pooled and not settings.db_pgbouncer  # PgBouncer has a pool of its own
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        pool = {
            "pool_size": settings.db_pool_size,
            "max_overflow": settings.db_max_overflow,
            "pool_timeout": settings.db_pool_timeout,
            "pool_recycle": settings.db_pool_recycle,
        }
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        hide_parameters=True,  # errors, and so the log, must not contain values
        connect_args=connect_args,
        json_deserializer=_from_json,
        **pool,
    )
    if pooled:
        _ping_after_idle(engine, settings.db_ping_after_idle)
        _open_in_greenlets(engine)
    _invalidate_pool_on_failover(engine)
    follow_database_url(engine, settings)
    return engine


def _from_json(text: str) -> Any:
    """A value of a JSON column: Pydantic's parser takes a third of the time of Python's."""
    try:
        return from_json(text)
    except ValueError:  # half of a surrogate pair, which Postgres stores in a `json` column
        return json.loads(text)


def _invalidate_pool_on_failover(engine: AsyncEngine) -> None:
    """Discard all pooled connections once the server stops answering or has become a standby.

    Otherwise each of them would fail one request before new connections reach the new primary.
    """

    @event.listens_for(engine.sync_engine, "handle_error")
    def handle_error(context: ExceptionContext) -> None:
        error = context.original_exception
        # Postgres cancels slow statements itself: a timeout here means that it did not answer.
        unresponsive = isinstance(error, OSError)
        became_standby = getattr(error, "sqlstate", None) == READ_ONLY
        if context.connection and (unresponsive or became_standby):
            context.is_disconnect = context.invalidate_pool_on_disconnect = True
        if _is_stale_plan(error.__cause__):
            raise SchemaChanged from error
        if unresponsive:  # SQLAlchemy wraps the driver's own errors only
            raise DatabaseUnavailable from error


def _open_in_greenlets(engine: AsyncEngine) -> None:
    """Let a checkout without a greenlet fail before it opens a connection, not midway."""

    @event.listens_for(engine.sync_engine, "do_connect")
    def do_connect(*_: Any) -> None:
        if not in_greenlet():
            raise MissingGreenlet


def _is_stale_plan(error: BaseException | None) -> bool:
    """Whether a migration has changed the types of a prepared statement, or has replaced them."""
    return isinstance(error, asyncpg.InvalidCachedStatementError) or (
        isinstance(error, asyncpg.InternalServerError) and "cache lookup failed" in str(error)
    )


def _ping_after_idle(engine: AsyncEngine, seconds: float) -> None:
    """Ping a connection at checkout if it was idle for longer than ``seconds``.

    SQLAlchemy's ``pool_pre_ping`` would add a round trip to every checkout.
    """

    dialect = engine.sync_engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) > seconds:
            try:
                dialect.do_ping(connection)
            except (dialect.loaded_dbapi.Error, OSError) as error:
                raise DisconnectionError("The idle connection was closed.") from error
