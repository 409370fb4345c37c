"""The request middleware: ids, headers, limits, unhandled errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import PlainTextResponse, StreamingResponse

from app.platform.base import context
from app.platform.http import routing
from app.platform.http.request_state import RequestState
from app.platform.settings.core import DEPLOYED
from app.settings import Settings
from tests.conftest import client_for, running_platform

DEADLINE = 0.2  # seconds


@asynccontextmanager
async def serving(settings: Settings, **changes: Any) -> AsyncIterator[FastAPI]:
    """Run an app with routes that wait, fail or stream."""
    async with running_platform(settings.model_copy(update=changes)) as app:
        app.state.waiting, app.state.release = asyncio.Semaphore(0), asyncio.Event()

        async def ids() -> dict[str, str]:
            return {"request_id": context.current().request_id}

        async def wait(request: Request) -> str:
            request.app.state.waiting.release()
            await request.app.state.release.wait()
            return "done"

        async def read_and_wait(request: Request) -> str:
            await request.body()
            return await wait(request)

        async def fail() -> None:
            raise RuntimeError("the password is hunter2")

        async def own_headers() -> PlainTextResponse:
            headers = {
                "Content-Security-Policy": "default-src 'self'",
                "Cache-Control": "public",
            }
            return PlainTextResponse("", headers=headers)

        async def stream() -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                yield "first "
                await asyncio.sleep(2 * DEADLINE)
                yield "last"

            return StreamingResponse(parts())

        async def stream_without_waiting() -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                for _ in range(100):
                    yield "part "

            return StreamingResponse(parts())

        async def endless() -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                while True:
                    yield "part "
                    await asyncio.sleep(0.01)

            return StreamingResponse(parts())

        async def events() -> AsyncIterator[ServerSentEvent]:
            while True:
                yield ServerSentEvent(data="event")

        async def length(request: Request) -> int:
            return len(await request.body())

        for route in (ids, wait, fail, own_headers, stream, stream_without_waiting, endless):
            app.add_api_route(f"/test/{route.__name__}", route, response_model=None)
        app.add_api_route("/test/read_and_wait", read_and_wait, methods=["POST"])
        app.add_api_route("/test/length", length, methods=["POST"])
        app.add_api_route("/test/events", events, response_class=EventSourceResponse)
        routing.install_index(app)
        app.openapi()  # generated once, which may take longer than the deadline
        yield app


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with serving(settings, max_in_flight=2, max_body_size=1000) as app:
        yield app


@pytest.fixture
async def hurried(settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with a deadline that comes soon."""
    async with serving(settings, request_timeout=DEADLINE) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


async def test_the_callers_request_id_is_kept(client: httpx2.AsyncClient) -> None:
    response = await client.get("/test/ids", headers={"X-Request-ID": "order-7.retry_1"})
    assert response.headers["x-request-id"] == "order-7.retry_1"
    assert response.json() == {"request_id": "order-7.retry_1"}


@pytest.mark.parametrize("given", ["", "a" * 65, "two words", 'quote"', "näive", "a\\nb"])
async def test_an_unsafe_request_id_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    response = await client.get("/test/ids", headers={"X-Request-ID": given.encode()})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/test/ids", "/unknown", "/test/fail"])
async def test_every_response_has_the_security_headers(
    client: httpx2.AsyncClient, path: str
) -> None:
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"
    assert "strict-transport-security" not in headers  # only in production
    assert len(headers["x-request-id"]) == 32


@pytest.mark.parametrize("environment", DEPLOYED)
async def test_staging_and_production_send_hsts(settings: Settings, environment: str) -> None:
    async with (
        running_platform(settings.model_copy(update={"environment": environment})) as app,
        client_for(app) as client,
    ):
        headers = (await client.get("/health/live")).headers
    assert headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"


async def test_a_route_can_override_a_default_header(client: httpx2.AsyncClient) -> None:
    headers = (await client.get("/test/own_headers")).headers
    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_response_may_be_stored_only_if_its_route_says_so(
    client: httpx2.AsyncClient,
) -> None:
    for path in ("/test/ids", "/unknown", "/test/fail"):
        assert (await client.get(path)).headers.get_list("cache-control") == ["no-store"]
    assert (await client.get("/test/own_headers")).headers.get_list("cache-control") == ["public"]


@pytest.mark.parametrize("path", ["/test/ids", "/test/stream", "/health/live", "/openapi.json"])
async def test_head_has_the_headers_of_get_and_no_body(
    client: httpx2.AsyncClient, path: str
) -> None:
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert set(head.headers) == set(get.headers)
    assert head.headers.get("content-length") == get.headers.get("content-length")


async def test_head_does_not_wait_for_the_end_of_a_stream(client: httpx2.AsyncClient) -> None:
    response = await asyncio.wait_for(client.head("/test/endless"), 5)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("ended_by", ["client", "server"])
async def test_an_event_stream_ends_without_an_error_while_an_event_waits_to_be_sent(
    service: FastAPI, caplog: pytest.LogCaptureFixture, ended_by: str
) -> None:
    left, sent = asyncio.Event(), list[dict[str, Any]]()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0)  # the next event waits
        if len(sent) == 5:
            left.set() if ended_by == "client" else next(iter(requests)).close_event_stream()

    requests: set[RequestState] = service.state.in_flight
    path = "/test/events"
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    scope |= {"headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("test", 80)}
    async with asyncio.timeout(5):
        await service({**scope, "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []
    assert not requests
    assert (sent[-1] == {"type": "http.response.body"}) is (ended_by == "server")


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Host"])
async def test_a_header_with_one_value_is_refused_with_two(
    client: httpx2.AsyncClient, name: str
) -> None:
    response = await client.get("/test/ids", headers=[(name, "a"), (name, "b")])
    assert response.status_code == 400
    assert name in response.json()["detail"]


async def test_two_request_ids_are_replaced_by_a_new_one(client: httpx2.AsyncClient) -> None:
    lines = [("X-Request-ID", "one"), ("X-Request-ID", "two")]
    assert len((await client.get("/test/ids", headers=lines)).json()["request_id"]) == 32


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
async def test_a_compressed_body_is_refused(client: httpx2.AsyncClient, coding: str) -> None:
    headers = {"Content-Encoding": coding}
    response = await client.post("/test/length", content=b"x", headers=headers)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported_media_type"
    assert response.headers["accept-encoding"] == "identity"
    headers = {"Content-Encoding": "Identity"}
    assert (await client.post("/test/length", content=b"x", headers=headers)).json() == 1


async def test_an_unhandled_error_is_logged_but_not_revealed(
    client: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    response = await client.get("/test/fail")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "hunter2" not in response.text
    assert "RuntimeError" in capfd.readouterr().out


async def test_a_request_past_its_deadline_is_cancelled(hurried: FastAPI) -> None:
    async with client_for(hurried) as client:
        request = asyncio.create_task(client.get("/test/wait"))
        await asyncio.wait({request}, timeout=5)  # `wait_for` would cancel the request itself
        assert request.done()
        response = request.result()
        assert response.status_code == 504
        assert response.json()["code"] == "timeout"
        assert not hurried.state.in_flight
        assert (await client.get("/test/ids")).status_code == 200


async def test_a_started_response_has_no_deadline(hurried: FastAPI) -> None:
    async with client_for(hurried) as client:
        assert (await client.get("/test/stream")).text == "first last"


async def test_a_stream_that_never_waits_does_not_block_other_requests(
    client: httpx2.AsyncClient,
) -> None:
    iterations = 0

    async def run_beside() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(run_beside())
    response = await client.get("/test/stream_without_waiting")
    task.cancel()
    assert response.text == "part " * 100
    assert iterations > 100


async def test_requests_above_max_in_flight_are_refused_but_probes_are_served(
    client: httpx2.AsyncClient, service: FastAPI
) -> None:
    requests = client.get("/test/wait"), client.post("/test/read_and_wait", content=b"body")
    waiting = [asyncio.create_task(request) for request in requests]
    for _ in waiting:
        await service.state.waiting.acquire()
    refused = await client.get("/test/ids")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["code"] == "overloaded"
    assert (await client.get("/health/live")).status_code == 200
    service.state.release.set()
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200, 200]
    assert (await client.get("/test/ids")).status_code == 200


async def test_a_body_of_the_maximum_size_is_accepted(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/test/length", content=b"x" * 1000)).json() == 1000


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(11):
        yield b"x" * 100


@pytest.mark.parametrize("path", ["/test/length", "/unknown"])
async def test_a_too_large_content_length_is_refused(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.post(path, content=b"x" * 1001)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 413
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_too_large_chunked_body_is_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post("/test/length", content=_chunks())
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
