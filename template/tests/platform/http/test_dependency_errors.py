"""Who is at fault: a dependency's outage is a 503, a peer's failure a 502 to 504, ours a 500."""

import asyncio
import logging
import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import DateTime, bindparam, column, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url

from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.data.http_client import HttpClientDep
from app.platform.data.redis import RedisDep
from app.platform.http.problems import Problem
from app.settings import Settings
from tests.conftest import client_for, running_platform

CLOSED_PORT = 1


async def query(session: SessionDep, sql: str) -> None:
    await session.execute(text(sql))


FAIL_ONCE = """
CREATE SEQUENCE {name};
CREATE FUNCTION {name}() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('{name}') < 2 THEN RAISE EXCEPTION USING ERRCODE = '{state}'; END IF;
    RETURN 7;
END $$
"""


async def read(reads: ReadSessionDep, function: str) -> int | None:
    row = await reads.first(select(column("f")).select_from(text(f"{function}() AS f")))
    return row.f if row else None


async def select_one(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))


async def set_key(redis: RedisDep) -> None:
    await redis.set("key", "value")


async def call(http: HttpClientDep, url: str) -> None:
    (await http.get(url)).raise_for_status()


async def exceed_own_timeout() -> None:
    async with asyncio.timeout(0):
        await asyncio.sleep(1)


async def read_a_missing_file() -> None:
    Path("/missing").read_text()  # noqa: ASYNC240


async def send_mail_nowhere() -> None:
    smtplib.SMTP("127.0.0.1", CLOSED_PORT)


async def lose_a_connection_of_its_own(session: SessionDep) -> None:
    await session.execute(text("SELECT 1"))
    raise ConnectionResetError


async def exceed_own_timeout_while_the_database_works(session: SessionDep) -> None:
    async with asyncio.timeout(0.01):
        await session.execute(text("SELECT pg_sleep(5)"))


async def compare_a_naive_column_with_an_aware_time(session: SessionDep) -> None:
    statement = text("SELECT :at").bindparams(bindparam("at", datetime.now(UTC), DateTime()))
    await session.execute(statement)


async def store_a_lone_surrogate(session: SessionDep) -> None:
    await session.execute(text("SELECT :text ::text"), {"text": "\ud800"})


async def store_not_a_number_as_json(session: SessionDep) -> None:
    statement = text("SELECT :json").bindparams(bindparam("json", {"x": float("nan")}, JSONB()))
    await session.execute(statement)


async def use_a_key_of_another_type(redis: RedisDep) -> None:
    await redis.set("text", "value")
    await redis.lpush("text", "value")


async def call_without_a_scheme(http: HttpClientDep) -> None:
    await http.get("example.test/")


FAULTS_OF_OURS: list[Callable[..., Awaitable[None]]] = [
    exceed_own_timeout,
    read_a_missing_file,
    send_mail_nowhere,
    lose_a_connection_of_its_own,
    exceed_own_timeout_while_the_database_works,
    compare_a_naive_column_with_an_aware_time,
    store_a_lone_surrogate,
    store_not_a_number_as_json,
    use_a_key_of_another_type,
    call_without_a_scheme,
]


def add_routes(app: FastAPI) -> None:
    for route in (query, read, select_one, set_key, call, *FAULTS_OF_OURS):
        app.add_api_route(f"/{route.__name__}", route)


@pytest.fixture(scope="module")
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(module_settings) as app:
        add_routes(app)
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def problem(response: httpx2.Response) -> Problem:
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    return Problem.model_validate(response.json())


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == level]


def assert_is_a_fault_of_ours(response: httpx2.Response, caplog: pytest.LogCaptureFixture) -> None:
    assert (response.status_code, problem(response).code) == (500, "internal_error")
    assert [record.exc_info is not None for record in lines(caplog, logging.ERROR)] == [True]


@pytest.mark.parametrize("route", FAULTS_OF_OURS, ids=lambda route: route.__name__)
async def test_a_fault_of_ours_is_a_500_with_one_traceback_whatever_its_class(
    client: httpx2.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    route: Callable[..., Awaitable[None]],
) -> None:
    assert_is_a_fault_of_ours(await client.get(f"/{route.__name__}"), caplog)


RAISE = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{}', CONSTRAINT = 'the_constraint'; END $$"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nonsense",
        "SELECT 1/0",
        "SELECT 'x'::int",
        "SELECT 'lacking'::weekday_of_a_test",
        "INSERT INTO seen_of_a_test VALUES (NULL)",
        *(RAISE.format(state) for state in ("22001", "22003", "22P02", "23000", "23502", "23514")),
    ],
)
async def test_what_the_database_refuses_to_run_is_a_fault_of_ours(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, sql: str
) -> None:
    await client.get(
        "/query", params={"sql": "CREATE TABLE seen_of_a_test (at timestamptz NOT NULL)"}
    )
    await client.get("/query", params={"sql": "CREATE TYPE weekday_of_a_test AS ENUM ('monday')"})
    caplog.clear()
    response = await client.get("/query", params={"sql": sql})
    assert_is_a_fault_of_ours(response, caplog)
    assert not any(word in response.text for word in ("SELECT", "SQLSTATE", "asyncpg", "sqlalche"))


@pytest.mark.parametrize(
    ("state", "status"),
    [("23503", 409), ("23505", 409), ("23P01", 409), ("22021", 422), ("22P05", 422)],
)
async def test_a_refusal_by_the_database_is_logged_with_its_sqlstate_and_constraint(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, state: str, status: int
) -> None:
    response = await client.get("/query", params={"sql": RAISE.format(state)})
    assert problem(response).status == status
    assert "the_constraint" not in response.text
    [line] = lines(caplog, logging.WARNING)
    assert state in line.getMessage()
    assert "the_constraint" in line.getMessage()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_terminate_backend(pg_backend_pid())",
        *(RAISE.format(state) for state in ("40001", "40P01", "53300", "55P03", "57014", "58030")),
    ],
)
async def test_a_transient_failure_of_the_database_is_a_503(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, sql: str
) -> None:
    response = await client.get("/query", params={"sql": sql})
    assert (problem(response).status, response.headers["Retry-After"]) == (503, "1")
    assert "the_constraint" not in response.text
    assert lines(caplog, logging.ERROR) == []


@pytest.mark.parametrize(
    ("state", "status"), [("40001", 200), ("40P01", 200), ("55P03", 503), ("22012", 500)]
)
async def test_a_read_is_repeated_once_if_postgres_rolled_it_back(
    client: httpx2.AsyncClient, state: str, status: int
) -> None:
    name = f"fail_once_{state.lower()}"
    for sql in FAIL_ONCE.format(name=name, state=state).split(";\n", 1):
        assert (await client.get("/query", params={"sql": sql})).status_code == 200
    assert (await client.get("/read", params={"function": name})).status_code == status


@asynccontextmanager
async def peer(answer: bytes | None) -> AsyncIterator[int]:
    """The port of a server that accepts connections and sends ``answer``, or nothing."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answer is None:
            await reader.read()  # until the client disconnects
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def http_answer(status: int) -> bytes:
    return f"HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, 504),
        (b"", 502),
        (b"220 mail.example.test ESMTP\r\n", 502),
        *((http_answer(status), 502) for status in (500, 501, 502)),
        *((http_answer(status), 503) for status in (429, 503)),
        (http_answer(504), 504),
    ],
)
async def test_a_peers_failure_is_not_ours(
    service: FastAPI,
    client: httpx2.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    status: int,
) -> None:
    if answer is None:
        monkeypatch.setattr(service.state.http, "total", 0.2)
    async with peer(answer) as port:
        response = await client.get("/call", params={"url": f"http://127.0.0.1:{port}/secret"})
    assert problem(response).status == status
    assert "127.0.0.1" not in response.text
    assert lines(caplog, logging.ERROR) == []
    [line] = lines(caplog, logging.WARNING)
    assert "127.0.0.1" in line.getMessage()
    assert "secret" not in line.getMessage()


async def test_a_peer_that_cannot_be_reached_is_a_502(client: httpx2.AsyncClient) -> None:
    response = await client.get("/call", params={"url": f"http://127.0.0.1:{CLOSED_PORT}/"})
    assert problem(response).status == 502


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_peer_that_refuses_our_request_means_that_the_fault_is_ours(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    async with peer(http_answer(status)) as port:
        response = await client.get("/call", params={"url": f"http://127.0.0.1:{port}/"})
    assert_is_a_fault_of_ours(response, caplog)


@pytest.mark.parametrize("accepts", [False, True])
async def test_an_unavailable_redis_is_a_503(settings: Settings, accepts: bool) -> None:
    async with peer(None) as port:
        url = f"redis://127.0.0.1:{port if accepts else CLOSED_PORT}/0"
        changes = {"redis_url": SecretStr(url), "redis_timeout": 0.2}
        assert_is_unavailable(await get(settings, changes, "/set_key"))


@pytest.mark.parametrize("change", ["closed", "silent", "no host", "wrong user", "wrong database"])
async def test_a_database_that_cannot_be_reached_is_a_503_whatever_the_reason(
    settings: Settings, change: str
) -> None:
    url = make_url(settings.database_url.get_secret_value())
    async with peer(None) as port:
        changed = {
            "closed": url.set(host="127.0.0.1", port=CLOSED_PORT, query={}),
            "silent": url.set(host="127.0.0.1", port=port, query={"ssl": "disable"}),
            "no host": url.set(host="missing.invalid", query={}),
            "wrong user": url.set(username="nobody"),
            "wrong database": url.set(database="missing"),
        }[change].render_as_string(hide_password=False)
        changes = {"database_url": SecretStr(changed), "db_pool_timeout": 0.2}
        assert_is_unavailable(await get(settings, changes, "/select_one"))


async def get(settings: Settings, changes: dict[str, Any], path: str) -> httpx2.Response:
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        client_for(app) as client,
    ):
        add_routes(app)
        return await client.get(path)


def assert_is_unavailable(response: httpx2.Response) -> None:
    assert (problem(response).status, response.headers["Retry-After"]) == (503, "1")
    assert "127.0.0.1" not in response.text
