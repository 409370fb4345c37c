"""Postgres: one engine a process, transactions that commit in one place, and reads that are cheap.

A route that writes takes a ``Session``: one transaction, committed after the route and before the
response is sent, rolled back on any error. Services ``flush``, they never ``commit``. A route that
only reads takes a ``ReadSession``: it selects columns, one statement at a time, with no transaction
around it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar, TypeVarTuple
from uuid import uuid4

from fastapi import Depends, FastAPI, Request
from sqlalchemy import Connection, ExceptionContext, MetaData, NullPool, Row, Select, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.util import greenlet_spawn

from app.platform import about
from app.platform.base.components import Lifespan
from app.platform.base.errors import OutcomeUnknown, Unavailable
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings

AFTER_COMMIT = "after_commit"
READ_ONLY = "25006"  # SQLSTATE of a write on a standby
TIMEOUT_MARGIN = 1.0  # seconds that Postgres has to say that a statement took too long
Columns = TypeVarTuple("Columns")
T = TypeVar("T")
Callback = Callable[[], Awaitable[None]]


class Base(DeclarativeBase):
    """What every table derives from. The names let migrations find constraints again."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Database:
    """The connections of this process, and the two ways to use them."""

    def __init__(self, engine: AsyncEngine, connections: int, wait: float) -> None:
        self.engine = engine
        # First come, first served: without it, a busy pool lets late-comers overtake and the
        # unlucky run into their time-out.
        self._slots = asyncio.Semaphore(connections)
        self._wait = wait

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free connection; raise ``Unavailable`` after ``db_pool_timeout`` seconds."""
        if self._slots.locked():
            try:
                async with asyncio.timeout(self._wait):  # wait_for() makes a task in Python 3.11
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
        """Open a session that commits at the end, or rolls back when anything was raised."""
        async with self.slot(), self.session() as session:
            yield session
            await _commit(session)
        for callback in session.info.pop(AFTER_COMMIT, ()):
            await callback()

    def session(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Call ``run`` with a connection in autocommit: no BEGIN and no ROLLBACK round trips."""
        async with self.slot():
            # One switch into SQLAlchemy and back; an AsyncConnection makes three, and a task.
            return await greenlet_spawn(self._read, run)

    def _read(self, run: Callable[[Connection], T]) -> T:
        with self.engine.sync_engine.connect() as connection:
            return run(connection.execution_options(isolation_level="AUTOCOMMIT"))


class ReadSession:
    """Runs single SELECTs. Two of them may see different states of the database.

    A statement that is made once, with ``bindparam()`` for what changes, costs a third less than
    one that each request makes anew: give it the values by name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, statement: Select[*Columns], **values: Any) -> Row[*Columns] | None:
        """Return the first row, or ``None``."""
        return await self._database.read(lambda c: c.execute(statement, values).first())

    async def all(self, statement: Select[*Columns], **values: Any) -> Sequence[Row[*Columns]]:
        """Return every row."""
        return await self._database.read(lambda c: c.execute(statement, values).all())


async def _commit(session: AsyncSession) -> None:
    """Commit; raise ``OutcomeUnknown`` when it was asked for and not answered."""
    try:
        await session.commit()
    except OSError as error:
        raise OutcomeUnknown from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutcomeUnknown from error
        raise


def on_commit(session: AsyncSession, callback: Callback) -> None:
    """Run ``callback`` after the transaction of ``session`` is committed; never when it is not.

    It must not raise: the work is done, and the caller is about to be told so.
    """
    session.info.setdefault(AFTER_COMMIT, []).append(callback)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.db
    async with database.transaction() as session:
        yield session


async def _reader(request: Request) -> ReadSession:
    reader: ReadSession = request.app.state.read_session
    return reader


# "function": closed, and so committed, before the response is sent; a commit that fails is an
# error that the caller sees.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
ReadSessionDep = Annotated[ReadSession, Depends(_reader)]


def create_engine(settings: PlatformSettings) -> AsyncEngine:
    """Make the engine. It connects when it is first used."""
    connect_args: dict[str, Any] = {
        "timeout": settings.db_pool_timeout,
        "command_timeout": settings.db_statement_timeout,
    }
    if settings.db_pgbouncer:
        # Statements are prepared on whatever server connection PgBouncer picks, so a name must
        # never meet another statement that was prepared under it.
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
        hide_parameters=True,  # in errors, and so in the log
        connect_args=connect_args,
        **pool,
    )
    if not settings.db_pgbouncer:
        _ping_after_idle(engine, settings.db_ping_after_idle)
    _invalidate_pool_on_failover(engine)
    return engine


def _invalidate_pool_on_failover(engine: AsyncEngine) -> None:
    """Give up all connections to a server that does not answer, or that became a standby.

    Each would fail for one request after the other, while a new one may lead to the new primary.
    """

    @event.listens_for(engine.sync_engine, "handle_error")
    def handle_error(context: ExceptionContext) -> None:
        error = context.original_exception
        # Postgres ends a statement in time; here it did not even say so.
        silent = isinstance(error, TimeoutError)
        if context.connection and (silent or getattr(error, "sqlstate", None) == READ_ONLY):
            context.is_disconnect = context.invalidate_pool_on_disconnect = True


def _ping_after_idle(engine: AsyncEngine, seconds: float) -> None:
    """Test a connection only when it was idle: a ping before each use would double the trips."""

    dialect = engine.sync_engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) > seconds:
            try:
                dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                raise DisconnectionError("The idle connection was lost.") from error


@asynccontextmanager
async def open_database(settings: PlatformSettings) -> AsyncIterator[Database]:
    """Open the database for a command, with one connection; close it in the end."""
    engine = create_engine(settings)
    try:
        yield Database(engine, 1, settings.db_pool_timeout)
    finally:
        await engine.dispose()


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        engine = create_engine(settings)
        tracing.watch_engine(engine)
        connections = settings.db_pool_size + settings.db_max_overflow
        app.state.db = Database(engine, connections, settings.db_pool_timeout)
        app.state.read_session = ReadSession(app.state.db)
        try:
            yield
        finally:
            await engine.dispose()

    return lifespan
