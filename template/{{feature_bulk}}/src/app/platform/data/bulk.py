"""Many rows at once: COPY into a table, and a server-side cursor out of it.

For a multi-row INSERT, pass a list to SQLAlchemy: it sends up to 1,000 rows with each statement.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncResult, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_, greenlet_spawn

from app.platform.base.errors import AppError
from app.platform.data.database import Database, ensure_open
from app.platform.data.driver_errors import raise_driver_error

# Rows of one COPY: each is a statement of its own, within DB_STATEMENT_TIMEOUT.
COPY_CHUNK = 10_000
# Rows of one fetch from a cursor, which are in memory at the same time.
CURSOR_CHUNK = 1000
READ_ONLY = text("SET TRANSACTION READ ONLY")
BEGIN = "SELECT 1"  # the first statement of SQLAlchemy begins the transaction, which COPY would not

Statement = Select[*tuple[Any, ...]]
Values = Mapping[str, Any]
Rows = Sequence[Row[*tuple[Any, ...]]]


async def copy_rows(
    session: AsyncSession, table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Insert ``rows``, each with the values of ``columns``, by COPY; returns their number.

    In the transaction of ``session``. Omitted columns get the default of the database, not that of
    the model. Errors are those of an INSERT. Rows may be a generator: a chunk is in memory.
    """
    ensure_open(session)
    remaining = iter(rows)
    count = 0
    while chunk := list(islice(remaining, COPY_CHUNK)):
        await session.run_sync(_copy, table, columns, chunk)
        count += len(chunk)
    return count


def _copy(session: Session, table: Table, columns: Sequence[str], rows: list[Any]) -> None:
    session.flush()
    connection = session.connection()
    connection.exec_driver_sql(BEGIN)
    converters = [
        table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
        for name in columns
    ]
    driver: Any = connection.connection.driver_connection
    dbapi: Any = connection.connection.dbapi_connection
    try:
        await_(
            driver.copy_records_to_table(
                table.name,
                schema_name=table.schema,
                columns=[table.c[name].name for name in columns],
                records=_converted(rows, converters),
            )
        )
    except BaseException as error:  # noqa: BLE001 (raises it, and a cancellation too)
        raise_driver_error(connection, dbapi, error, f"COPY {table.name}")


def _converted(
    rows: list[Any], converters: Sequence[Callable[[Any], Any] | None]
) -> Iterable[Sequence[Any]]:
    if not any(converters):
        return rows
    return [
        [
            convert(value) if convert else value
            for convert, value in zip(converters, row, strict=True)
        ]
        for row in rows
    ]


class Cursor:
    """Rows of a SELECT, a chunk at a time. ``columns``: their names."""

    def __init__(
        self, session: AsyncSession, connection: Connection, statement: Statement, values: Values
    ) -> None:
        self._session = session
        self._connection = connection
        self._statement = statement
        self._values = values
        self._dbapi: Any = connection.connection.dbapi_connection
        self._result: AsyncResult[*tuple[Any, ...]] | None = None
        self.columns: Sequence[str] = ()

    async def fetch(self) -> Rows:
        """The next rows; none at the end."""
        try:
            if self._result is None:
                self._result = await self._session.stream(
                    self._statement, self._values, execution_options={"yield_per": CURSOR_CHUNK}
                )
                self.columns = list(self._result.keys())
            return await self._result.fetchmany()
        except (SQLAlchemyError, AppError):
            raise
        except Exception as error:  # of the driver: SQLAlchemy does not translate those of fetches
            await greenlet_spawn(raise_driver_error, self._connection, self._dbapi, error, "FETCH")
            raise


@asynccontextmanager
async def open_cursor(
    database: Database, statement: Statement, values: Values
) -> AsyncIterator[Cursor]:
    """A server-side cursor over a SELECT, in a read-only transaction of its own.

    It holds a connection until the block ends, and one chunk of rows in memory. All rows are of
    one snapshot. DB_STATEMENT_TIMEOUT applies to each fetch.
    """
    async with database.transaction() as session:
        await session.execute(READ_ONLY)
        connection = await session.run_sync(lambda sync: sync.connection())
        yield Cursor(session, connection, statement, values)
        await session.rollback()
