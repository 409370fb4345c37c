"""WebSockets: refusals are problem documents, and each has an id, a log line and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Query, WebSocket, WebSocketException
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.auth import CurrentUser
from app.platform.base.errors import Forbidden, Unavailable
from app.platform.http.rate_limit import limit
from app.platform.observability import logs
from app.settings import Settings
from tests.conftest import running_platform
from tests.platform.server.test_connection_limits import Listener, served

ID = {"X-Request-ID": "ws-1"}
HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "X-Request-ID: ws-1\r\n{}\r\n\r\n"
)

router = APIRouter(prefix="/ws")


@router.websocket("/echo/{name}")
async def echo(websocket: WebSocket, name: str) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@router.websocket("/receive")
async def receive(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.receive_text()


@router.websocket("/forbidden")
async def forbid(websocket: WebSocket) -> None:
    raise Forbidden("Not you.")


@router.websocket("/close")
async def close(websocket: WebSocket) -> None:
    await websocket.close()


@router.websocket("/exception")
async def refuse(websocket: WebSocket) -> None:
    raise WebSocketException(1008, "Not you.")


@router.websocket("/number")
async def number(websocket: WebSocket, value: Annotated[int, Query()]) -> None:
    await websocket.accept()


@router.websocket("/limited", dependencies=[limit("sockets", "1/hour")])
async def limited(websocket: WebSocket) -> None:
    await websocket.accept()


@router.websocket("/private")
async def private(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept()


@router.websocket("/bug")
async def bug(websocket: WebSocket, accept: bool = False) -> None:
    if accept:
        await websocket.accept()
    raise RuntimeError("hunter2")


@router.websocket("/forget")
async def forget(websocket: WebSocket) -> None:
    """Neither accept nor refuse."""


@router.websocket("/fail-later")
async def fail_later(websocket: WebSocket, kind: str) -> None:
    await websocket.accept()
    raise Forbidden("Not you.") if kind == "forbidden" else Unavailable("Busy.")


async def fail_in_background() -> JSONResponse:
    async def fail() -> None:
        raise RuntimeError("hunter2")

    return JSONResponse({}, background=BackgroundTask(fail))


async def fail_in_stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "part"
        raise RuntimeError("hunter2")

    return StreamingResponse(parts())


@pytest.fixture
async def listener(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Listener]:
    changes = {"allowed_hosts": ["127.0.0.1", "test"], "max_websockets": 2}
    changes |= getattr(request, "param", {})
    async with running_platform(settings.model_copy(update=changes)) as app:
        await app.state.redis.flushdb()
        app.include_router(router, prefix="/api")
        for route in (fail_in_background, fail_in_stream):
            app.add_api_route(f"/{route.__name__}", route, response_model=None)
        async with served(app) as listener:
            logs.configure(app.state.settings)  # Uvicorn's configuration has replaced it
            yield listener


@pytest.fixture
def lines(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> Callable[[], list[dict[str, Any]]]:
    capfd.readouterr()

    def read() -> list[dict[str, Any]]:
        listener.app.state.access_log.flush()
        out, err = capfd.readouterr()
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]

    return read


Lines = Callable[[], list[dict[str, Any]]]


async def closed(listener: Listener) -> None:
    """Wait until the server has ended every request and WebSocket."""
    if tasks := set(listener.state.tasks):
        await asyncio.wait(tasks)


def url(listener: Listener, path: str) -> str:
    return f"ws://127.0.0.1:{listener.port}{path}"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/unknown", {}, 404),
        ("/api/ws/unknown", {}, 404),
        ("/api/ws/forbidden", {}, 403),
        ("/api/ws/close", {}, 403),
        ("/api/ws/exception", {}, 403),
        ("/api/ws/number?value=many", {}, 422),
        ("/api/ws/echo/x", {"Host": "evil.test"}, 400),
        ("/api/ws/limited", {}, 429),
    ],
)
async def test_a_refused_handshake_is_a_problem_with_one_log_line(
    listener: Listener, lines: Lines, path: str, headers: dict[str, str], status: int
) -> None:
    if status == 429:
        async with connect(url(listener, path)):
            pass
        await closed(listener)
        lines()
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url(listener, path), additional_headers=ID | headers)
    response = refusal.value.response
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == "ws-1"
    assert response.body
    assert json.loads(response.body)["request_id"] == "ws-1"
    assert "Retry-After" in response.headers or status != 429
    await closed(listener)
    [line] = lines()
    assert (line["event"], line["level"], line["request_id"]) == ("websocket", "info", "ws-1")
    assert line["status"] == status


VALID = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Sec-WebSocket-Version: 13", b"400"),
        ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short", b"400"),
        ("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"426"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"426"),
        (f'{VALID}\r\nSec-WebSocket-Protocol: ,"', b"400"),
        (f"{VALID}\r\nSec-WebSocket-Extensions: a;;", b"400"),
        (f"{VALID}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"400"),
    ],
)
async def test_an_invalid_handshake_is_a_problem_with_one_log_line(
    listener: Listener, lines: Lines, headers: str, status: bytes
) -> None:
    reader = await listener.connect(HANDSHAKE.format("/api/ws/echo/x", headers).encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert b"application/problem+json" in head
    assert (b"sec-websocket-version: 13" in head) is (status == b"426")
    [line] = lines()
    assert (line["level"], line["request_id"]) == ("warning", json.loads(body)["request_id"])


async def test_an_accepted_websocket_has_an_id_a_log_line_and_metrics(
    listener: Listener, lines: Lines
) -> None:
    async with connect(url(listener, "/api/ws/echo/x"), additional_headers=ID) as websocket:
        assert websocket.response
        assert websocket.response.headers["X-Request-ID"] == "ws-1"
        assert "RateLimit" in websocket.response.headers
        await websocket.send("hello")
        assert await websocket.recv() == "hello"
        await websocket.close(1000)
    await closed(listener)
    [line] = lines()
    assert (line["event"], line["status"], line["close_code"]) == ("websocket", 101, 1000)
    assert (line["request_id"], line["path"]) == ("ws-1", "/api/ws/echo/x")
    assert line["route"] == "/api/ws/echo/{name}"
    assert (line["messages_received"], line["messages_sent"]) == (1, 1)
    labels = {"method": "GET", "route": "/api/ws/echo/{name}", "status": "101"}
    registry = listener.app.state.metrics.registry
    assert registry.get_sample_value("http_server_request_duration_seconds_count", labels) == 1


async def test_text_that_is_not_utf_8_closes_a_websocket_and_is_no_error(
    listener: Listener, lines: Lines
) -> None:
    async with connect(url(listener, "/api/ws/echo/x"), additional_headers=ID) as websocket:
        await websocket.send(b"\xff", text=True)
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
    await closed(listener)
    [line] = lines()
    assert (line["event"], line["level"], line["close_code"]) == ("websocket", "info", 1007)


@pytest.mark.parametrize("listener", [{"access_log_sample_rate": 0.0}], indirect=True)
async def test_only_accepted_websockets_are_sampled(listener: Listener, lines: Lines) -> None:
    async with connect(url(listener, "/api/ws/echo/x")):
        pass
    with pytest.raises(InvalidStatus):
        await connect(url(listener, "/unknown"))
    await closed(listener)
    assert [line["status"] for line in lines()] == [404]


async def test_a_client_that_leaves_is_no_error(listener: Listener, lines: Lines) -> None:
    websocket = await connect(url(listener, "/api/ws/receive"))
    websocket.transport.abort()
    await closed(listener)
    [line] = lines()
    assert (line["level"], line["status"]) == ("info", 101)
    assert line["close_code"] in (1005, 1006)


@pytest.mark.parametrize(
    ("path", "message"),
    [("/api/ws/bug", "hunter2"), ("/api/ws/forget", "neither accepted nor refused")],
)
async def test_a_bug_is_logged_once_with_the_ids(
    listener: Listener, lines: Lines, path: str, message: str
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url(listener, path), additional_headers=ID)
    assert refusal.value.response.status_code == 500
    assert refusal.value.response.body
    assert message.encode() not in refusal.value.response.body
    await closed(listener)
    error, line = lines()
    assert (error["event"], error["request_id"]) == ("unhandled error", "ws-1")
    assert message in error["exception"]
    assert (line["event"], line["status"]) == ("websocket", 500)


@pytest.mark.parametrize(
    ("path", "code", "errors"),
    [
        ("/api/ws/bug?accept=true", 1011, 1),
        ("/api/ws/fail-later?kind=forbidden", 1008, 0),
        ("/api/ws/fail-later?kind=unavailable", 1013, 0),
    ],
)
async def test_an_error_after_the_handshake_closes_the_websocket(
    listener: Listener, lines: Lines, path: str, code: int, errors: int
) -> None:
    async with connect(url(listener, path)) as websocket:
        with pytest.raises(ConnectionClosed) as end:
            await websocket.recv()
    assert end.value.rcvd
    assert end.value.rcvd.code == code
    await closed(listener)
    *logged, line = lines()
    assert [each["event"] for each in logged] == ["unhandled error"] * errors
    assert (line["status"], line["close_code"]) == (101, code)


async def test_the_default_rate_limit_covers_websockets(settings: Settings) -> None:
    from app.platform.settings.rates import Rate

    changes = {"rate_limit": Rate(1, 3600)}
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        served(app) as listener,
    ):
        await app.state.redis.flushdb()
        app.include_router(router, prefix="/api")
        async with connect(url(listener, "/api/ws/echo/x")):
            pass
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url(listener, "/api/ws/echo/x"))
        assert refusal.value.response.status_code == 429
        await app.state.redis.flushdb()


@pytest.mark.parametrize("path", ["/fail_in_background", "/fail_in_stream"])
async def test_an_error_after_the_response_began_is_logged_once(
    listener: Listener, lines: Lines, path: str
) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    reader = await listener.connect(request.encode())
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
    await closed(listener)
    error, line = lines()
    assert (error["event"], line["event"]) == ("unhandled error", "request")
    assert error["request_id"] == line["request_id"]
