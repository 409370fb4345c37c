"""Postgres: one engine per process, one transaction per writing request, reads in autocommit.

A route that writes takes a ``SessionDep``: one transaction, committed after the route and before
the response is sent, rolled back on any error. Services ``flush``; they never ``commit``. A route
that only reads takes a ``ReadSessionDep``, which runs single SELECTs without a transaction.

A request holds at most one connection. A transaction takes it at its first statement; from then
on, the reads of the same request, such as the lookup of its user, run in that transaction.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, TypeVar, TypeVarTuple

from fastapi import Depends, FastAPI
from sqlalchemy import (
    Connection,
    Executable,
    MetaData,
    NullPool,
    PoolProxiedConnection,
    Row,
    Select,
    event,
)
from sqlalchemy.exc import DBAPIError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction
from sqlalchemy.orm.session import JoinTransactionMode
from sqlalchemy.util import await_, greenlet_spawn
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import (
    DatabaseUnavailable,
    OutcomeUnknown,
    SchemaChanged,
    Unavailable,
)
from app.platform.data.driver_errors import sqlstate
from app.platform.data.engine import create_engine
from app.platform.data.lazy_loads import refuse_lazy_loads
from app.platform.data.prepared_reads import PreparedReads, Rows, is_observed
from app.platform.data.slow_statements import SlowStatements
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings

AFTER_COMMIT = "after_commit"
# SQLSTATEs serialization_failure (of a read: on a standby) and deadlock_detected.
ROLLED_BACK = ("40001", "40P01")
READS = ("GET", "HEAD")  # methods whose reads may come from a standby, see `replica`
# A connection that was idle for less than this, in seconds, is used without a greenlet, in which
# it could be tested; at most half of DB_PING_AFTER_IDLE.
USED_LATELY = 5.0
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


class TransactionEnded(RuntimeError):
    """A session was used after its transaction had been committed or rolled back."""

    def __init__(self) -> None:
        super().__init__(
            "The transaction of this session has ended, so whatever it did now would be lost."
            " A background task or a streamed response opens its own with `DatabaseDep`:"
            " `async with database.transaction()`. Jobs are enqueued before the route returns."
            " See docs/transactions.md."
        )


class SecondConnection(RuntimeError):
    """A request that holds a connection asked for another one."""

    def __init__(self) -> None:
        super().__init__(
            "This request has a transaction open and cannot open a second one: requests that wait"
            " for a connection while they hold another can block each other. Use the session that"
            " is open, or end its transaction first. See docs/transactions.md."
        )


class Database:
    """Access to Postgres through an engine, with at most ``max_connections`` at a time.

    ``acquire_timeout``: seconds to wait for a connection. ``used``: connections in use.
    ``waiting``: requests and jobs that wait for one. ``used_lately``: see ``USED_LATELY``.
    """

    # Sessions control the transaction of the connection that they take.
    join_transaction_mode: JoinTransactionMode = "control_fully"

    def __init__(
        self,
        engine: AsyncEngine,
        max_connections: int,
        acquire_timeout: float,
        slow_statements: SlowStatements | None = None,
        used_lately: float = 0,
    ) -> None:
        self.engine = engine
        self.max_connections = max_connections
        self.used = self.waiting = 0
        # Each use of a PgBouncer connection may get another server, which has not prepared it.
        self.prepared_reads = PreparedReads(
            enabled=not isinstance(engine.pool, NullPool), slow_statements=slow_statements
        )
        self._exhausted_since: float | None = None
        self._used_lately = used_lately
        self._uses = deque[float](maxlen=max_connections)  # the times of the last ones
        # FIFO: SQLAlchemy's pool alone could starve early waiters under load.
        self._slots = asyncio.Semaphore(max_connections)
        self._acquire_timeout = acquire_timeout

    @contextmanager
    def connect(self, *, autocommit: bool = False) -> Iterator[Connection]:
        """A connection, for code in a greenlet; raises ``Unavailable`` if none is free in time."""
        await_(self._acquire())
        try:
            with self.engine.sync_engine.connect() as connection:
                if autocommit:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection
        finally:
            self._release()

    @property
    def exhausted(self) -> bool:
        """Whether no connection is free."""
        return self._slots.locked()

    @property
    def exhausted_seconds(self) -> float:
        """Seconds since a connection was free, 0 if one is."""
        since = self._exhausted_since
        return 0.0 if since is None else time.monotonic() - since

    async def _acquire(self) -> None:
        if self.exhausted:
            await self._wait()
        else:
            await self._slots.acquire()
        now = time.monotonic()
        self.used += 1
        self._uses.append(now)
        if self.exhausted and self._exhausted_since is None:
            self._exhausted_since = now

    def _release(self) -> None:
        self.used -= 1
        self._slots.release()
        if not self.exhausted:
            self._exhausted_since = None

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            # wait_for() would create a task in Python 3.11.
            async with asyncio.timeout(self._acquire_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy.") from None
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end of the block and rolls back on any exception.

        It takes a connection at its first statement. That raises ``SecondConnection`` if the
        request holds one for another transaction.
        """
        outer = _innermost.get()
        session = _AsyncTransaction(database=self, outer=outer)
        _innermost.set(session.sync_session)
        try:
            yield session
            await session.finish_reads()
            await _commit(session)
        finally:
            _innermost.set(outer)
            if not session.sync_session.ended:
                await asyncio.shield(asyncio.create_task(session.close()))
        for callback in session.info.pop(AFTER_COMMIT, ()):
            await callback()

    async def read(
        self,
        run: Callable[[Connection], T],
        by_driver: Callable[[PoolProxiedConnection], Awaitable[T]] | None = None,
    ) -> T:
        """Result of ``run`` in the open transaction of this request, or else in autocommit.

        Autocommit saves BEGIN and ROLLBACK. Concurrent calls in one request run one by one.
        ``by_driver`` takes the place of ``run`` in autocommit, and uses the driver's connection,
        unless somebody listens to the engine's statements.
        """
        # One greenlet switch in each direction; AsyncConnection needs three, and a task.
        if transaction := self._open_transaction():
            async with transaction.lock:
                if transaction.taken and not transaction.ending:
                    return await greenlet_spawn(run, transaction.taken)
                if not transaction.ending:
                    return await self._read(run, by_driver)
        async with context.current().read_lock:
            return await self._read(run, by_driver)

    async def execute(self, statement: Executable) -> None:
        """Execute one statement in the open transaction of this request, or else in autocommit."""
        context.current().has_written = True
        await self.read(lambda connection: connection.execute(statement).close())

    async def autocommit(self, run: Callable[[Connection], T]) -> T:
        """Result of ``run`` on a connection in autocommit, also while a transaction is open."""
        return await self._read(run, None)

    def _open_transaction(self) -> "_Transaction | None":
        """The transaction of this request that its reads join."""
        transaction = _innermost.get()
        if transaction is None or transaction.ending or transaction.database is not self:
            return None
        # In a task or an app that the request has started, it is another request's.
        return transaction if transaction.request is context.current_or_none() else None

    async def _read(
        self,
        run: Callable[[Connection], T],
        by_driver: Callable[[PoolProxiedConnection], Awaitable[T]] | None,
    ) -> T:
        if by_driver is None or is_observed(self.engine.sync_engine):
            return await greenlet_spawn(self._run, run)
        await self._acquire()
        try:
            # In autocommit until SQLAlchemy begins something, so the pool has nothing to undo.
            connection = self._ready()
            if connection is None:
                connection = await greenlet_spawn(self._check_out)
            try:
                return await by_driver(connection)
            finally:
                await self._check_in(connection)
        finally:
            self._release()

    def _run(self, run: Callable[[Connection], T]) -> T:
        with self.connect(autocommit=True) as connection:
            return run(connection)

    def _check_out(self) -> PoolProxiedConnection:
        """A connection of the pool, for code in a greenlet: it may have to be opened or tested."""
        return self.engine.sync_engine.connect().connection

    async def _check_in(self, connection: PoolProxiedConnection) -> None:
        """Return a connection; what the pool has no room for, it closes, which needs a greenlet."""
        pool: Any = self.engine.pool
        if pool.checkedin() < pool.size():
            connection.close()
        else:
            await greenlet_spawn(connection.close)

    def _ready(self) -> PoolProxiedConnection | None:
        """A connection that has to be neither opened nor tested; ``None`` if that is not certain.

        The pool is first in, first out: after as many uses as it can have connections, none of
        them has been idle since before the first of these. A greenlet costs as much CPU time as a
        query does in Postgres.
        """
        uses = self._uses
        if (
            len(uses) < self.max_connections
            or time.monotonic() - uses[0] >= self._used_lately
            or not self.engine.pool.checkedin()  # type: ignore[attr-defined]  # of a queue
        ):
            return None
        with suppress(MissingGreenlet):  # too old, or invalidated: the next one is opened anew
            return self.engine.sync_engine.raw_connection()
        return None


class _Transaction(Session):
    """A session that takes its connection at the first statement and is of no use after its end.

    ``request``: the context of the request or job. ``outer``: the transaction around this one.
    ``lock``: held while the connection is being taken and by reads that join, so that these never
    take a second connection and never overlap the commit. ``ending``: no more reads may join.
    ``callbacks_before``: how many callbacks there were when a savepoint began.
    """

    def __init__(self, *, database: Database, outer: "_Transaction | None", **options: Any) -> None:
        mode = database.join_transaction_mode
        super().__init__(expire_on_commit=False, join_transaction_mode=mode, **options)
        self.database = database
        self.request = context.current_or_none()
        self.outer = outer
        self.lock = asyncio.Lock()
        self.taken: Connection | None = None
        self.callbacks_before: dict[SessionTransaction, int] = {}
        self.ending = self.ended = False
        self._resources = ExitStack()

    def get_bind(self, *_args: Any, **_options: Any) -> Connection:
        """The connection; SQLAlchemy asks for it before each statement."""
        if self.taken is None:
            await_(self.lock.acquire())
            try:
                self.taken = self._take()
            finally:
                self.lock.release()
        return self.taken

    def _take(self) -> Connection:
        if self.taken is not None:  # by a concurrent statement
            return self.taken
        if self.ended:
            raise TransactionEnded
        other = _innermost.get()
        while other is not None:
            if other.taken is not None and other.request is self.request:
                raise SecondConnection
            other = other.outer
        if self.request:
            self.request.has_written = True
        return self._resources.enter_context(self.database.connect())

    def _autobegin_t(self, begin: bool = False) -> SessionTransaction:
        if self.ended:
            raise TransactionEnded
        return super()._autobegin_t(begin)

    def commit_and_close(self) -> None:
        """In one greenlet: another one would cost as much CPU time as a query."""
        self.commit()
        self.ended = True
        self.close()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.taken = None
            self._resources.close()


@event.listens_for(_Transaction, "after_transaction_create")
def _begin_savepoint(session: _Transaction, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.callbacks_before[transaction] = len(session.info.get(AFTER_COMMIT, ()))


@event.listens_for(_Transaction, "after_soft_rollback")
def _undo_savepoint(session: _Transaction, transaction: SessionTransaction) -> None:
    """Forget the callbacks of the part that is undone."""
    if transaction.nested:
        del session.info.get(AFTER_COMMIT, [])[session.callbacks_before[transaction] :]


class _AsyncTransaction(AsyncSession):
    sync_session_class = _Transaction
    sync_session: _Transaction

    async def finish_reads(self) -> None:
        """Let the reads that have joined finish, and no others join."""
        self.sync_session.ending = True
        async with self.sync_session.lock:
            pass

    async def close(self) -> None:
        self.sync_session.ended = True
        await self.finish_reads()
        await greenlet_spawn(self.sync_session.close)


# The transaction that was opened last, and not closed, in the current task or around it.
_innermost: ContextVar[_Transaction | None] = ContextVar("innermost_transaction", default=None)


def in_transaction() -> bool:
    """Whether this request or job has a transaction open that has executed a statement."""
    transaction = _innermost.get()
    while transaction is not None:
        if transaction.taken is not None and transaction.request is context.current_or_none():
            return True
        transaction = transaction.outer
    return False


class ReadSession:
    """Single SELECTs: in the open transaction of the request, or else in autocommit.

    Two of them may see different states of the database.

    A statement built once, with ``bindparam()`` for its values, costs a fraction of one built for
    each request (see ``prepared_reads``). Pass the values by name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first(self, statement: Select[*Columns], **values: Any) -> Row[*Columns] | None:
        """First row, or ``None``."""
        rows: Any = await self._read(statement, values, limit=1)
        return rows[0] if rows else None

    async def all(self, statement: Select[*Columns], **values: Any) -> Sequence[Row[*Columns]]:
        """All rows."""
        rows: Any = await self._read(statement, values)
        return rows  # type: ignore[no-any-return]

    async def _read(
        self, statement: Select[*tuple[Any, ...]], values: dict[str, Any], limit: int | None = None
    ) -> Rows:
        reads = self._database.prepared_reads
        prepared = reads.get(statement, values)

        def run(connection: Connection) -> Rows:
            result = reads.execute(connection, statement, values)
            if limit is None:
                return result.all()
            return [row] if (row := result.first()) else []

        by_driver = partial(prepared.fetch, values, limit) if prepared else None
        try:
            return await self._database.read(run, by_driver)
        except (SchemaChanged, DBAPIError) as error:
            if isinstance(error, DBAPIError) and sqlstate(error) not in ROLLED_BACK:
                raise
            try:  # a read can be repeated, unless a transaction has failed
                return await self._database.read(run, by_driver)
            except DBAPIError:
                raise error from None


async def _commit(session: _AsyncTransaction) -> None:
    """Commit; raise ``OutcomeUnknown`` if the connection is lost before Postgres answers."""
    try:
        await greenlet_spawn(session.sync_session.commit_and_close)
    except DatabaseUnavailable as error:
        raise OutcomeUnknown from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutcomeUnknown from error
        raise


def ensure_open(session: AsyncSession) -> None:
    """Raise ``TransactionEnded`` if the transaction of ``session`` has ended."""
    if getattr(session.sync_session, "ended", False):
        raise TransactionEnded


def on_commit(session: AsyncSession, callback: Callback) -> None:
    """Register ``callback`` to run once the transaction of ``session`` has committed.

    It must not raise: the response to a committed transaction would be an error. Those that were
    registered in a savepoint (``session.begin_nested()``) do not run if that is rolled back.
    """
    ensure_open(session)
    session.info.setdefault(AFTER_COMMIT, []).append(callback)


async def _database(connection: HTTPConnection) -> Database:
    database: Database = connection.app.state.db
    return database


async def _session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    database: Database = connection.app.state.db
    async with database.transaction() as session:
        yield session


async def _read_session(connection: HTTPConnection) -> ReadSession:
    state = connection.app.state
    reads_only = connection.scope.get("method") in READS
    reads: ReadSession = state.replica.reads if state.replica and reads_only else state.read_session
    return reads


async def _primary_read_session(connection: HTTPConnection) -> ReadSession:
    reads: ReadSession = connection.app.state.read_session
    return reads


DatabaseDep = Annotated[Database, Depends(_database)]
# scope="function" commits before the response is sent, so that a failed commit becomes an error
# response.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
ReadSessionDep = Annotated[ReadSession, Depends(_read_session)]
# Never stale; without DATABASE_REPLICA_URL, the same.
PrimaryReadSessionDep = Annotated[ReadSession, Depends(_primary_read_session)]


@asynccontextmanager
async def open_database(settings: PlatformSettings) -> AsyncIterator[Database]:
    """A ``Database`` with a single connection, for commands."""
    engine = create_engine(settings)
    try:
        yield Database(engine, max_connections=1, acquire_timeout=settings.db_pool_timeout)
    finally:
        await engine.dispose()


def create_database(settings: PlatformSettings) -> Database:
    """A ``Database`` with a pool, slow statements and spans."""
    engine = create_engine(settings)
    slow_statements = None
    if settings.slow_statement_ms:
        slow_statements = SlowStatements(settings.slow_statement_ms / 1000)
        slow_statements.listen(engine)
    tracing.instrument_engine(engine)
    return Database(
        engine,
        settings.db_pool_size + settings.db_max_overflow,
        settings.db_pool_timeout,
        slow_statements,
        used_lately=min(USED_LATELY, settings.db_ping_after_idle / 2),
    )


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.state.replica = None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.db = create_database(settings)
        app.state.read_session = ReadSession(app.state.db)
        try:
            yield
        finally:
            await app.state.db.engine.dispose()

    return lifespan
