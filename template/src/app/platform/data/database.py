"""Postgres: one engine per process, one transaction per writing request, reads in autocommit.

A route that writes takes a ``SessionDep``: one transaction, committed after the route and before
the response is sent, rolled back on any error. Services ``flush``; they never ``commit``. A route
that only reads takes a ``ReadSessionDep``, which runs single SELECTs without a transaction.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar, TypeVarTuple
from uuid import uuid4

import asyncpg  # noqa: TID251 (to tell an outage from other errors)
from fastapi import Depends, FastAPI, Request
from sqlalchemy import Connection, ExceptionContext, MetaData, NullPool, Row, Select, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.util import greenlet_spawn

from app.platform import about
from app.platform.base.components import Lifespan
from app.platform.base.errors import (
    DatabaseUnavailable,
    OutcomeUnknown,
    SchemaChanged,
    Unavailable,
)
from app.platform.data.credentials import follow_database_url
from app.platform.data.lazy_loads import refuse_lazy_loads
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings

AFTER_COMMIT = "after_commit"
READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction: a write on a standby
# Seconds after Postgres' own statement_timeout until the driver gives up on an unresponsive server.
TIMEOUT_MARGIN = 1.0
Columns = TypeVarTuple("Columns")
T = TypeVar("T")
Callback = Callable[[], Awaitable[None]]


class Base(DeclarativeBase):
    """Base class of all models. Migrations rely on its predictable constraint names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


refuse_lazy_loads(Base)


class Database:
    """Access to Postgres through an engine, with at most ``max_connections`` at a time.

    ``acquire_timeout``: seconds to wait for a connection.
    """

    def __init__(self, engine: AsyncEngine, max_connections: int, acquire_timeout: float) -> None:
        self.engine = engine
        # FIFO: SQLAlchemy's pool alone could starve early waiters under load.
        self._slots = asyncio.Semaphore(max_connections)
        self._acquire_timeout = acquire_timeout

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The right to check out one connection; raises ``Unavailable`` if none is free in time."""
        if self._slots.locked():
            try:
                # wait_for() would create a task in Python 3.11.
                async with asyncio.timeout(self._acquire_timeout):
                    await self._slots.acquire()
            except TimeoutError:
                raise Unavailable("The database is busy.") from None
        else:
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end of the block and rolls back on any exception."""
        async with self.slot(), self.session() as session:
            yield session
            await _commit(session)
        for callback in session.info.pop(AFTER_COMMIT, ()):
            await callback()

    def session(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Result of ``run`` on a connection in autocommit, which saves BEGIN and ROLLBACK."""
        async with self.slot():
            # One greenlet switch in each direction; AsyncConnection needs three, and a task.
            return await greenlet_spawn(self._read, run)

    def _read(self, run: Callable[[Connection], T]) -> T:
        with self.engine.sync_engine.connect() as connection:
            return run(connection.execution_options(isolation_level="AUTOCOMMIT"))


class ReadSession:
    """Single SELECTs in autocommit. Two of them may see different states of the database.

    A statement built once, with ``bindparam()`` for its values, costs about a third less than one
    built for each request. Pass the values by name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, statement: Select[*Columns], **values: Any) -> Row[*Columns] | None:
        """First row, or ``None``."""
        return await self._read(lambda c: c.execute(statement, values).first())

    async def all(self, statement: Select[*Columns], **values: Any) -> Sequence[Row[*Columns]]:
        """All rows."""
        return await self._read(lambda c: c.execute(statement, values).all())

    async def _read(self, run: Callable[[Connection], T]) -> T:
        try:
            return await self._database.read(run)
        except SchemaChanged as changed:  # a read can be repeated, unless a transaction has failed
            try:
                return await self._database.read(run)
            except DBAPIError:
                raise changed from None


async def _commit(session: AsyncSession) -> None:
    """Commit; raise ``OutcomeUnknown`` if the connection is lost before Postgres answers."""
    try:
        await session.commit()
    except DatabaseUnavailable as error:
        raise OutcomeUnknown from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutcomeUnknown from error
        raise


def on_commit(session: AsyncSession, callback: Callback) -> None:
    """Register ``callback`` to run once the transaction of ``session`` has committed.

    It must not raise: the response to a committed transaction would be an error.
    """
    session.info.setdefault(AFTER_COMMIT, []).append(callback)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.db
    async with database.transaction() as session:
        yield session


async def _read_session(request: Request) -> ReadSession:
    read_session: ReadSession = request.app.state.read_session
    return read_session


# scope="function" commits before the response is sent, so that a failed commit becomes an error
# response.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
ReadSessionDep = Annotated[ReadSession, Depends(_read_session)]


async def _connect(*args: Any, **options: Any) -> Any:
    """Connect; any failure of it is an outage: refused, timed out, a name, a login."""
    try:
        return await asyncpg.connect(*args, **options)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable from error


def create_engine(settings: PlatformSettings) -> AsyncEngine:
    """An engine that connects at first use.

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
        pool: dict[str, Any] = {"poolclass": NullPool}
    else:
        connect_args["command_timeout"] += TIMEOUT_MARGIN
        connect_args["server_settings"] = {
            "application_name": about.NAME,
            "statement_timeout": str(int(settings.db_statement_timeout * 1000)),
            "idle_in_transaction_session_timeout": str(int(settings.request_timeout * 2000)),
        }
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
        **pool,
    )
    if not settings.db_pgbouncer:
        _ping_after_idle(engine, settings.db_ping_after_idle)
    _invalidate_pool_on_failover(engine)
    follow_database_url(engine, settings)
    return engine


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


@asynccontextmanager
async def open_database(settings: PlatformSettings) -> AsyncIterator[Database]:
    """A ``Database`` with a single connection, for commands."""
    engine = create_engine(settings)
    try:
        yield Database(engine, max_connections=1, acquire_timeout=settings.db_pool_timeout)
    finally:
        await engine.dispose()


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        engine = create_engine(settings)
        tracing.instrument_engine(engine)
        max_connections = settings.db_pool_size + settings.db_max_overflow
        app.state.db = Database(engine, max_connections, settings.db_pool_timeout)
        app.state.read_session = ReadSession(app.state.db)
        try:
            yield
        finally:
            await engine.dispose()

    return lifespan
