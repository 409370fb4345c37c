"""Exports: any number of rows as CSV or JSON Lines, in constant memory.

The rows come from a server-side cursor. Its transaction begins before the response, so that an
outage is still an error response, and ends with it, also when the client leaves. An error after
that aborts the connection: an incomplete export never looks complete.
"""

import csv
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import date, datetime
from datetime import time as time_of_day
from enum import Enum, StrEnum
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from app.platform.base.errors import Unavailable
from app.platform.data.bulk import Cursor, Statement, open_cursor
from app.platform.data.database import Database
from app.platform.settings import PlatformSettings

# Spreadsheets run a cell that begins with one of these, also from a quoted field (OWASP: "CSV
# Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 (the full-width ones)
RETRY_AFTER = 10  # seconds

Rows = Sequence[Sequence[Any]]
Encode = Callable[[Rows], bytes]


class ExportFormat(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


MEDIA_TYPES = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.JSONL: "application/jsonl",
}
# For OpenAPI: the `responses` of a route that sends an export.
EXPORT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The rows",
        "content": {
            "text/csv": {"schema": {"type": "string", "examples": ["id,name\r\n1,Anchor\r\n"]}},
            "application/jsonl": {
                "schema": {"type": "string", "examples": ['{"id":1,"name":"Anchor"}\n']}
            },
        },
    }
}


class ExportTimedOut(RuntimeError):
    """An export took longer than EXPORT_TIMEOUT to send."""


class ExportSlots:
    """The exports that this process may send at once."""

    def __init__(self, limit: int, timeout: float) -> None:
        self.timeout = timeout
        self._free = limit

    @contextmanager
    def take(self) -> Any:
        if not self._free:
            raise Unavailable("Too many exports are running; try again.", retry_after=RETRY_AFTER)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Exports:
    """Sends the rows of statements; what it opens ends with the request."""

    def __init__(self, database: Database, slots: ExportSlots, stack: AsyncExitStack) -> None:
        self._database = database
        self._slots = slots
        self._stack = stack

    async def send(
        self,
        statement: Statement,
        export_format: ExportFormat,
        name: str,
        **values: Any,
    ) -> StreamingResponse:
        """The response with all rows of ``statement``, as a download named ``name``.

        ``values``: those of its ``bindparam()``. Raises ``Unavailable`` while the process sends as
        many exports as it may, or no connection is free.
        """
        self._stack.enter_context(self._slots.take())
        cursor = await self._stack.enter_async_context(
            open_cursor(self._database, statement, values)
        )
        first = await cursor.fetch()  # before the response starts: errors have a status
        columns = cursor.columns
        encode = _csv if export_format is ExportFormat.CSV else _json_lines(columns)
        header = _csv([columns]) if export_format is ExportFormat.CSV else b""
        return StreamingResponse(
            self._chunks(cursor, first, header, encode),
            media_type=MEDIA_TYPES[export_format],
            headers={"Content-Disposition": f'attachment; filename="{name}.{export_format}"'},
        )

    async def _chunks(
        self,
        cursor: Cursor,
        rows: Rows,
        header: bytes,
        encode: Encode,
    ) -> AsyncIterator[bytes]:
        end = time.monotonic() + self._slots.timeout
        if header:
            yield header
        while rows:
            yield encode(rows)
            if time.monotonic() > end:
                raise ExportTimedOut
            rows = await cursor.fetch()


def _json_lines(columns: Sequence[str]) -> Encode:
    def encode(rows: Rows) -> bytes:
        lines = [to_json(dict(zip(columns, row, strict=True))) for row in rows]
        return b"\n".join(lines) + b"\n"

    return encode


def _csv(rows: Rows) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    """The text of a cell. Text that a spreadsheet would run as a formula begins with ``'``."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, dict | list):
        return to_json(value).decode()
    return value


async def _exports(request: Request) -> AsyncIterator[Exports]:
    async with AsyncExitStack() as stack:
        yield Exports(request.app.state.db, request.app.state.export_slots, stack)


ExportsDep = Annotated[Exports, Depends(_exports)]


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.state.export_slots = ExportSlots(settings.export_limit, settings.export_timeout)
