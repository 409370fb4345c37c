"""Every error response is a problem document, and reveals no internals."""

import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from app.platform.base.errors import AppError, Conflict
from app.platform.http.problems import Problem, responses
from app.settings import Settings
from tests.conftest import client_for, running_platform

PROBLEM = "application/problem+json"
JSON = {"Content-Type": "application/json"}


class Body(BaseModel):
    password: str
    count: int


async def accept(body: Body) -> int:
    return body.count


async def refuse() -> None:
    raise Conflict("The tide is out.")


async def fail() -> None:
    raise RuntimeError("hunter2 went wrong")


async def plain(status: int, text: str | None = None) -> Response:
    return PlainTextResponse(text, status) if text else Response(status_code=status)


async def raise_http(status: int, kind: str) -> None:
    """Raise as a library does: with a text, a mapping, a list, or nothing."""
    details: dict[str, Any] = {
        "text": "Out of tea.",
        "mapping": {"detail": "Out of tea.", "leaves": {"left": 0}, "status": 200},
        "list": ["Out", "of", "tea"],
        "nothing": None,
    }
    raise HTTPException(status, details[kind])


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(settings) as app:
        app.add_api_route("/accept", accept, methods=["POST"])
        app.add_api_route("/refuse", refuse)
        app.add_api_route("/fail", fail)
        app.add_api_route("/raise-http", raise_http)
        app.add_api_route("/plain", plain, response_model=None, methods=["GET", "HEAD"])
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def problem(response: httpx2.Response) -> Problem:
    assert response.headers["Content-Type"] == PROBLEM, response.text
    document = Problem.model_validate(response.json())
    assert document.status == response.status_code
    assert document.request_id == response.headers["X-Request-ID"]
    return document


@pytest.mark.parametrize(
    "content", [b'{"password": "hunter2", "count": "many"}', b'["hunter2"]', b""]
)
async def test_an_invalid_body_is_described_but_not_repeated(
    client: httpx2.AsyncClient, content: bytes
) -> None:
    document = problem(await client.post("/accept", content=content, headers=JSON))
    assert (document.status, document.code) == (422, "invalid")
    assert document.errors
    assert "hunter2" not in document.model_dump_json()


async def test_an_app_error_becomes_a_problem(client: httpx2.AsyncClient) -> None:
    document = problem(await client.get("/refuse"))
    assert (document.status, document.code) == (409, "conflict")
    assert document.detail == "The tide is out."


@pytest.mark.parametrize(
    ("status", "code"),
    [(413, "content_too_large"), (416, "range_not_satisfiable"), (422, "unprocessable_content")],
)
async def test_a_code_is_the_phrase_of_the_status_whatever_the_python(
    client: httpx2.AsyncClient, status: int, code: str
) -> None:
    response = await client.get("/raise-http", params={"status": status, "kind": "nothing"})
    assert problem(response).code == code


def test_the_document_has_the_phrase_of_the_status_whatever_the_python() -> None:
    class TooLarge(AppError):
        status = HTTPStatus(413)

    class Invalid(AppError):
        status = HTTPStatus(422)

    documented = responses(Conflict, TooLarge, Invalid)
    phrases = {status: each["description"] for status, each in documented.items()}
    assert phrases == {409: "Conflict", 413: "Content Too Large", 422: "Unprocessable Content"}


async def test_an_unknown_route_and_a_wrong_method_are_problems(
    client: httpx2.AsyncClient,
) -> None:
    assert problem(await client.get("/unknown")).status == 404
    response = await client.get("/accept")
    assert problem(response).status == 405
    assert response.headers["Allow"] == "POST"


async def test_a_trailing_slash_is_not_redirected(client: httpx2.AsyncClient) -> None:
    response = await client.get("/fail/", headers={"Host": "evil.test"})
    assert problem(response).status == 404
    assert "evil.test" not in str(response.headers)  # a redirect would go there


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_too_large_body_is_refused(client: httpx2.AsyncClient, with_length: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1_048_576

    headers = {"Content-Length": str(20 * 1_048_576)} if with_length else {}
    response = await client.post("/accept", content=body(), headers=headers)
    assert problem(response).status == 413


@pytest.mark.parametrize(
    ("value", "status"), [("bytes=x", 400), ("lines=1-2", 400), ("bytes=99999999-", 416)]
)
async def test_an_invalid_range_of_a_file_is_a_problem(
    client: httpx2.AsyncClient, value: str, status: int
) -> None:
    headers = {"Range": value, "Accept-Encoding": "identity"}
    response = await client.get("/docs/assets/swagger-ui.css", headers=headers)
    assert problem(response).status == status
    assert (status == 416) is ("Content-Range" in response.headers)


async def test_errors_in_plain_text_and_without_a_body_become_problems(
    client: httpx2.AsyncClient,
) -> None:
    response = await client.get("/plain", params={"status": 418, "text": "No coffee."})
    assert problem(response).detail == "No coffee."
    assert problem(await client.get("/plain", params={"status": 404})).code == "not_found"
    assert problem(await client.get("/plain", params={"status": 413})).code == "content_too_large"
    assert (await client.get("/plain", params={"status": 200, "text": "x"})).text == "x"
    assert (await client.head("/plain", params={"status": 404})).content == b""


async def test_a_bug_is_a_500_without_details(client: httpx2.AsyncClient) -> None:
    response = await client.get("/fail")
    assert problem(response).code == "internal_error"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("kind", ["text", "mapping", "list", "nothing"])
@pytest.mark.parametrize("status", [400, 404, 422, 499, 503, 599])
async def test_an_http_exception_of_a_library_keeps_its_status(
    client: httpx2.AsyncClient, status: int, kind: str
) -> None:
    response = await client.get("/raise-http", params={"status": status, "kind": kind})
    document = problem(response)
    assert document.status == status
    assert document.detail
    if kind in ("text", "mapping"):
        assert document.detail == "Out of tea."
    if kind == "mapping":
        assert response.json()["leaves"] == {"left": 0}


async def test_an_http_exception_with_500_is_a_fault_like_any_other(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/raise-http", params={"status": 500, "kind": "text"})
    assert problem(response).code == "internal_error"
    assert "Out of tea." not in response.text
    assert [record.exc_info is not None for record in errors(caplog)] == [True]


async def test_a_status_without_a_body_gets_none(client: httpx2.AsyncClient) -> None:
    response = await client.get("/raise-http", params={"status": 304, "kind": "text"})
    assert (response.status_code, response.content) == (304, b"")
