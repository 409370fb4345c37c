"""Every error response is a problem document, and reveals no internals."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr
from sqlalchemy import text

from app.platform.base.errors import Conflict
from app.platform.data.database import SessionDep
from app.platform.data.redis import RedisDep
from app.platform.http.problems import Problem
from app.settings import Settings
from tests.conftest import client_for, running_app

PROBLEM = "application/problem+json"


class Body(BaseModel):
    password: str
    count: int


async def accept(body: Body) -> int:
    return body.count


async def refuse() -> None:
    raise Conflict("The tide is out.")


async def fail() -> None:
    raise RuntimeError("hunter2 went wrong")


async def query(session: SessionDep, sql: str) -> None:
    await session.execute(text(sql))


async def set_key(redis: RedisDep) -> None:
    await redis.set("key", "value")


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_app(settings) as app:
        app.add_api_route("/accept", accept, methods=["POST"])
        app.add_api_route("/refuse", refuse)
        app.add_api_route("/fail", fail)
        app.add_api_route("/query", query)
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def problem(response: httpx2.Response) -> Problem:
    assert response.headers["Content-Type"] == PROBLEM, response.text
    document = Problem.model_validate(response.json())
    assert document.status == response.status_code
    assert document.request_id == response.headers["X-Request-ID"]
    return document


@pytest.mark.parametrize(
    "content",
    [b'{"password": "hunter2"', b'{"password": "hunter2", "count": "many"}', b'["hunter2"]', b""],
)
async def test_an_invalid_body_is_described_but_not_repeated(
    client: httpx2.AsyncClient, content: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/accept", content=content, headers=headers)
    document = problem(response)
    assert (document.status, document.code) == (422, "invalid")
    assert document.errors
    assert "hunter2" not in response.text


async def test_an_app_error_becomes_a_problem(client: httpx2.AsyncClient) -> None:
    document = problem(await client.get("/refuse"))
    assert (document.status, document.code) == (409, "conflict")
    assert document.detail == "The tide is out."


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


async def test_a_bug_is_a_500_without_details(client: httpx2.AsyncClient) -> None:
    response = await client.get("/fail")
    assert problem(response).code == "internal_error"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("SELECT nonsense", 500),
        ("SELECT 1/0", 422),
        ("SELECT 'x'::int", 422),
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '57014'; END $$", 503),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$", 503),
        ("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '53300'; END $$", 503),
    ],
)
async def test_database_errors_are_mapped_and_their_messages_hidden(
    client: httpx2.AsyncClient, sql: str, status: int
) -> None:
    response = await client.get("/query", params={"sql": sql})
    assert problem(response).status == status
    assert not any(word in response.text for word in ("SELECT", "SQLSTATE", "asyncpg", "sqlalche"))


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """The port of a server that accepts connections and never responds."""

    async def never_respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client disconnects
        writer.close()

    server = await asyncio.start_server(never_respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("accepts", [False, True])
async def test_an_unavailable_redis_is_a_503(
    settings: Settings, silent_port: int, accepts: bool
) -> None:
    url = f"redis://127.0.0.1:{silent_port if accepts else 1}/0"
    changes = {"redis_url": SecretStr(url), "redis_timeout": 0.2}
    async with running_app(settings.model_copy(update=changes)) as app, client_for(app) as client:
        app.add_api_route("/set-key", set_key)
        response = await client.get("/set-key")
    assert (problem(response).status, response.headers["Retry-After"]) == (503, "1")
    assert "127.0.0.1" not in response.text
