"""Exports are complete or visibly broken, hold one connection, and end with the request."""

import csv
import io
import json
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Enum as EnumType
from sqlalchemy import Integer, String, bindparam, func, literal, select
from sqlalchemy.exc import DBAPIError

from app.platform.data.bulk import CURSOR_CHUNK
from app.platform.http import exports as exports_module
from app.platform.http.exports import ExportFormat, ExportsDep, ExportTimedOut
from app.settings import Settings
from tests.conftest import client_for, running_platform


class Parity(Enum):
    UNKNOWN = "unknown"


NUMBERS = select(
    func.generate_series(1, bindparam("count", type_=Integer)).label("n"),
    literal('=1+1, "x"', String).label("text"),
    func.json_build_array(1, None).label("list"),
    literal(Parity.UNKNOWN, EnumType(Parity, native_enum=False)).label("parity"),
)
# Fails at row 1,500: in the second chunk.
FAILING = select(
    (literal(1) / (func.generate_series(1, bindparam("count", type_=Integer)) - 1500)).label("n")
)


async def send(
    exports: ExportsDep, count: int, format: ExportFormat = ExportFormat.JSONL
) -> StreamingResponse:
    return await exports.send(NUMBERS, format, name="numbers", count=count)


async def send_failing(exports: ExportsDep, count: int) -> StreamingResponse:
    return await exports.send(FAILING, ExportFormat.CSV, name="numbers", count=count)


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with one connection that sends one export at a time."""
    changes = {"db_pool_size": 1, "db_max_overflow": 0, "export_limit": 1}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        app.add_api_route("/numbers", send, response_model=None)
        app.add_api_route("/failing", send_failing, response_model=None)
        yield app
        assert (app.state.db.used, app.state.db.waiting) == (0, 0)


class Streamed:
    """A response as the server gets it from the app."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.chunks = 0
        self.complete = False
        self.error: Exception | None = None


async def get(app: FastAPI, path: str, query: str, leave_after: int | None = None) -> Streamed:
    """Request ``path``; the client leaves after so many chunks."""
    streamed = Streamed()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def write(message: Any) -> None:
        if message["type"] == "http.response.start":
            streamed.status = message["status"]
            return
        streamed.body += message.get("body", b"")
        streamed.chunks += 1
        streamed.complete = not message.get("more_body", False)
        if leave_after is not None and streamed.chunks >= leave_after:
            raise OSError("The client has left.")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    try:
        await app(scope, receive, write)
    except Exception as error:
        if not streamed.status:
            raise
        streamed.error = error
    return streamed


async def test_csv_has_a_header_and_no_formulas(service: FastAPI) -> None:
    async with client_for(service) as client:
        response = await client.get("/numbers?count=2&format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="numbers.csv"'
    assert list(csv.reader(io.StringIO(response.text))) == [
        ["n", "text", "list", "parity"],
        ["1", '\'=1+1, "x"', "[1,null]", "unknown"],
        ["2", '\'=1+1, "x"', "[1,null]", "unknown"],
    ]


async def test_json_lines_have_all_rows_in_order(service: FastAPI) -> None:
    count = 2 * CURSOR_CHUNK + 1
    async with client_for(service) as client:
        response = await client.get(f"/numbers?count={count}")
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["n"] for line in lines] == list(range(1, count + 1))
    assert lines[0] == {"n": 1, "text": '=1+1, "x"', "list": [1, None], "parity": "unknown"}


@pytest.mark.parametrize(("format", "text"), [("csv", "n,text,list,parity\r\n"), ("jsonl", "")])
async def test_an_export_without_rows_is_complete(service: FastAPI, format: str, text: str) -> None:
    async with client_for(service) as client:
        response = await client.get(f"/numbers?count=0&format={format}")
    assert (response.status_code, response.text) == (200, text)


async def test_an_error_before_the_first_row_has_a_status(service: FastAPI) -> None:
    async with client_for(service) as client, service.state.db.transaction() as session:
        await session.execute(select(1))  # takes the only connection
        service.state.db._acquire_timeout = 0.05
        assert (await client.get("/numbers?count=1")).status_code == 503


async def test_an_error_after_the_first_rows_does_not_look_like_an_end(service: FastAPI) -> None:
    streamed = await get(service, "/failing", "count=3000")
    assert (streamed.status, streamed.complete) == (200, False)
    assert streamed.error is not None
    assert isinstance(streamed.error.__cause__, DBAPIError)
    assert service.state.db.used == 0


async def test_an_export_past_its_time_does_not_look_like_an_end(service: FastAPI) -> None:
    service.state.export_slots.timeout = -1
    streamed = await get(service, "/numbers", "count=3000")
    assert (streamed.status, streamed.complete) == (200, False)
    assert isinstance(streamed.error, ExportTimedOut)


async def test_an_export_ends_when_its_client_leaves(service: FastAPI) -> None:
    streamed = await get(service, "/numbers", "count=1000000", leave_after=3)
    assert streamed.chunks == 3
    assert service.state.db.used == 0
    async with client_for(service) as client:  # the slot is free too
        assert (await client.get("/numbers?count=1")).status_code == 200


async def test_more_exports_than_the_limit_are_refused(service: FastAPI) -> None:
    async with client_for(service) as client:
        with service.state.export_slots.take():
            response = await client.get("/numbers?count=1")
        assert (response.status_code, response.headers["retry-after"]) == (
            503,
            str(exports_module.RETRY_AFTER),
        )
        assert (await client.get("/numbers?count=1")).status_code == 200
