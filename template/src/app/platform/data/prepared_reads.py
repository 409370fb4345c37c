"""SELECTs that are compiled once and then run on the connection of the driver.

For a read of one row, SQLAlchemy costs more CPU time than Postgres and the driver together. A
statement object that is used again needs little of it: the SQL, and the conversions of values and
rows, which are taken from an execution by SQLAlchemy. Statements that are built for each use, and
those that need more, are executed by SQLAlchemy; so are all while somebody listens to the engine's
events, or the log shows SQL.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, CursorResult, Engine, PoolProxiedConnection, Row, Select
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import greenlet_spawn

from app.platform.data.driver_errors import raise_driver_error
from app.platform.data.slow_statements import SlowStatements
from app.platform.observability import tracing

Rows = Sequence[Row[*tuple[Any, ...]]]
Statement = Select[*tuple[Any, ...]]
EVENTS = ("before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute")


def is_observed(engine: Engine) -> bool:
    """Whether the log or a listener sees the statements that SQLAlchemy executes."""
    listeners = engine._has_events and any(getattr(engine.dispatch, name) for name in EVENTS)
    return listeners or engine._should_log_info()


class PreparedRead:
    """A statement's SQL, its parameters in order, and the conversion of its records to rows."""

    def __init__(self, compiled: SQLCompiler, result: CursorResult[*tuple[Any, ...]]) -> None:
        self.sql = compiled.string
        self._engine = result.connection.engine
        self._parameters = list(_parameters(compiled))
        self._names = {parameter.name for parameter in self._parameters if parameter.name}
        self._make_rows: Callable[[Sequence[Any]], Rows] = result._row_getter[1]  # type: ignore[assignment]

    def accepts(self, values: Mapping[str, Any]) -> bool:
        """Whether ``values`` are all that the statement needs, and no others."""
        return self._names == values.keys()

    async def fetch(
        self, values: Mapping[str, Any], limit: int | None, connection: PoolProxiedConnection
    ) -> Rows:
        """The first ``limit`` rows; the errors are SQLAlchemy's."""
        driver: Any = connection.driver_connection
        arguments = [parameter.value(values) for parameter in self._parameters]
        try:
            with tracing.statement_span(self._engine, self.sql):
                records = await driver.fetch(self.sql, *arguments)
        except BaseException as error:  # noqa: BLE001 (raises it, and a cancellation too)
            await greenlet_spawn(self._fail, connection, error)
        return self._make_rows(records[:limit])

    def _fail(self, pooled: PoolProxiedConnection, error: BaseException) -> NoReturn:
        with Connection(self._engine, pooled) as connection:
            raise_driver_error(connection, pooled.dbapi_connection, error, self.sql)


class TimedRead(PreparedRead):
    """A prepared read that is logged if it is slow."""

    def __init__(
        self,
        compiled: SQLCompiler,
        result: CursorResult[*tuple[Any, ...]],
        slow_statements: SlowStatements,
    ) -> None:
        super().__init__(compiled, result)
        self._slow_statements = slow_statements

    async def fetch(
        self, values: Mapping[str, Any], limit: int | None, connection: PoolProxiedConnection
    ) -> Rows:
        started = perf_counter()
        try:
            return await super().fetch(values, limit, connection)
        finally:
            self._slow_statements.finished(self.sql, started)


class _Parameter:
    """A parameter: the value of ``name``, or without one a literal of the statement."""

    __slots__ = ("convert", "literal", "name")

    def __init__(
        self, name: str | None, literal: Any, convert: Callable[[Any], Any] | None
    ) -> None:
        self.name = name
        self.convert = convert
        self.literal = convert(literal) if convert and name is None else literal

    def value(self, values: Mapping[str, Any]) -> Any:
        if self.name is None:
            return self.literal
        value = values[self.name]
        return self.convert(value) if self.convert else value


def _parameters(compiled: SQLCompiler) -> Iterator[_Parameter]:
    for name in compiled.positiontup or ():
        bind = compiled.binds[name]
        convert: Any = compiled._bind_processors.get(name)
        yield _Parameter(None if bind.unique else bind.key, bind.value, convert)


class PreparedReads:
    """The statements that have been used before. Entries end with their statement."""

    def __init__(self, *, enabled: bool, slow_statements: SlowStatements | None = None) -> None:
        self._enabled = enabled
        self._slow_statements = slow_statements
        self._seen = WeakSet[Statement]()
        self._reads = WeakKeyDictionary[Statement, PreparedRead | None]()

    def get(self, statement: Statement, values: Mapping[str, Any]) -> PreparedRead | None:
        """The prepared read of a statement that has been used at least twice."""
        read = self._reads.get(statement)
        return read if read and read.accepts(values) else None

    def execute(
        self, connection: Connection, statement: Statement, values: Mapping[str, Any]
    ) -> CursorResult[*tuple[Any, ...]]:
        """Execute by SQLAlchemy; prepare a statement that is used for the second time."""
        result = connection.execute(statement, values)
        if self._enabled and statement not in self._reads:
            if statement in self._seen:
                self._reads[statement] = _prepare(
                    connection, statement, result, self._slow_statements
                )
            self._seen.add(statement)
        return result


def _prepare(
    connection: Connection,
    statement: Statement,
    result: CursorResult[*tuple[Any, ...]],
    slow_statements: SlowStatements | None,
) -> PreparedRead | None:
    """A prepared read; ``None`` if the statement depends on more than its values."""
    compiled = statement.compile(dialect=connection.dialect)
    assert isinstance(compiled, SQLCompiler)
    if (
        compiled.post_compile_params  # an IN that is rendered for each use
        or compiled.literal_execute_params
        or any(bind.callable for bind in compiled.bind_names)
        or statement.get_execution_options()
    ):
        return None
    if slow_statements:
        return TimedRead(compiled, result, slow_statements)
    return PreparedRead(compiled, result)
