"""Bodies: 400 for what is not JSON, 415 for another content type, 422 for unknown fields."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI, Form
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, SecretStr

from app.platform.http.schemas import RequestModel, ResponseModel
from app.settings import Settings
from tests.conftest import client_for, running_platform

PROBLEM = "application/problem+json"
JSON = {"Content-Type": "application/json"}


class Loose(BaseModel):
    """A schema that looks at nothing: whatever is refused is refused before it."""

    anything: Any = None
    password: SecretStr | None = None
    number: float = 0


class Strict(RequestModel):
    name: str = ""
    size: float = 0


class Ratio(ResponseModel):
    value: float


async def take_json(body: Loose) -> Any:
    return body.anything


async def take_strict(body: Strict) -> str:
    return body.name


async def take_form(name: Annotated[str, Form()]) -> str:
    return name


async def divide(by: float) -> Ratio:
    return Ratio(value=float("inf") if by == 0 else 1 / by)


async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(10):
            await asyncio.sleep(0)
            yield "part "

    return StreamingResponse(parts())


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(settings) as app:
        for route in (take_json, take_strict, take_form):
            app.add_api_route(f"/{route.__name__}", route, methods=["POST"])
        app.add_api_route("/divide", divide)
        app.add_api_route("/stream", stream)
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


async def in_pieces(body: bytes, size: int = 3) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        b'{"anything": "hunter2"',
        b"hunter2",
        b'{"anything": "\\ud800"}',
        b'{"anything": {"\\uDFFF": "hunter2"}}',
        b'{"anything": "\\udc00\\ud800"}',
        b'{"password": "hunter2 \\ud800"}',
        b'{"anything": "\xed\xa0\x80"}',
        b'{"anything": "caf\xe9"}',
        '{"anything": "utf-16"}'.encode("utf-16"),
        b'{"number": NaN}',
        b'{"anything": [-Infinity]}',
        b'{"number": 1e999}',
        b'{"anything": -1E+400}',
        b'{"anything": ' + b"1" * 400 + b".0}",
        b'{"anything": ' + b"1" * 220 + b"e99}",
        b'\xef\xbb\xbf{"anything": NaN}',
        '{"anything": NaN}'.encode("utf-16-le"),
        '{"anything": NaN}'.encode("utf-32-be"),
    ],
)
async def test_a_body_that_is_not_json_is_a_400_wherever_the_flaw_is(
    client: httpx2.AsyncClient, body: bytes, pieces: bool
) -> None:
    content = in_pieces(body) if pieces else body
    response = await client.post("/take_json", content=content, headers=JSON)
    assert (response.status_code, response.headers["Content-Type"]) == (400, PROBLEM)
    assert "JSON" in response.json()["detail"]
    assert "hunter2" not in response.text


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"anything": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"anything": "NaN, Infinity and 1e999"}', "NaN, Infinity and 1e999"),
        (b'{"anything": "\\\\ud800"}', "\\ud800"),
        (b'{"anything": 1e100}', 1e100),
        (b'{"anything": "' + b"1" * 400 + b'"}', "1" * 400),
    ],
)
async def test_text_that_only_looks_suspicious_is_accepted(
    client: httpx2.AsyncClient, body: bytes, value: object
) -> None:
    response = await client.post("/take_json", content=body, headers=JSON)
    assert (response.status_code, response.json()) == (200, value)


@pytest.mark.parametrize(
    ("route", "content_type"),
    [
        ("/take_json", "text/plain"),
        ("/take_json", "application/x-www-form-urlencoded"),
        ("/take_json", "application/octet-stream"),
        ("/take_json", None),
        ("/take_form", "application/json"),
        ("/take_form", "text/plain"),
    ],
)
async def test_a_wrong_content_type_is_a_415(
    client: httpx2.AsyncClient, route: str, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post(route, content=b'{"name": "x"}', headers=headers)
    assert (response.status_code, response.headers["Content-Type"]) == (415, PROBLEM)
    assert response.json()["code"] == "unsupported_media_type"


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(
    ("body", "status"), [(b'{"anything": NaN}', 400), (b"\xff", 400), (b"x" * 2_000_000, 413)]
)
async def test_a_body_that_is_refused_while_a_stream_begins_is_no_fault_of_the_service(
    client: httpx2.AsyncClient,
    capfd: pytest.CaptureFixture[str],
    body: bytes,
    status: int,
    started: bool,
) -> None:
    # A response that is to be compressed starts with its first part, another one before it.
    headers = JSON | {"Accept-Encoding": "identity" if started else "gzip"}
    content = in_pieces(body, size=500_000)
    response = await client.request("GET", "/stream", content=content, headers=headers)
    assert response.status_code == (200 if started else status)
    assert len(response.text) < len("part " * 10) or not started  # the connection ends
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["level"] for line in lines if line["event"] != "request"] == []


async def test_a_missing_body_is_no_wrong_content_type(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/take_json")).status_code == 422
    assert (await client.post("/take_form")).status_code == 422


async def test_unknown_fields_are_refused_by_name(client: httpx2.AsyncClient) -> None:
    response = await client.post("/take_strict", json={"name": "x", "nmae": "y"})
    assert response.status_code == 422
    assert [error["location"] for error in response.json()["errors"]] == [["body", "nmae"]]


async def test_a_response_never_has_null_in_place_of_a_number(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/divide?by=4")).json() == {"value": 0.25}
    assert (await client.get("/divide?by=0")).status_code == 500
