"""Connection time-outs, pipelining, eviction at capacity, and the limit of WebSockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.responses import StreamingResponse
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.platform.http import routing
from app.platform.server import connection_limits
from app.platform.server.connection_limits import (
    HEADER_TIMEOUT,
    BoundedHttpProtocol,
    BoundedWebSocketProtocol,
    ConnectionReaper,
)
from app.settings import Settings
from tests.conftest import running_platform

KEEP_ALIVE = 75
PING_INTERVAL = 0.3  # seconds between pings, and until an answer
PROBE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
SLOW = b"GET /test/slow HTTP/1.1\r\nHost: test\r\n\r\n"
LARGE = b"GET /test/large HTTP/1.1\r\nHost: test\r\n\r\n"
INCOMPLETE_BODY = b"POST /test/echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n"


async def slow() -> None:
    await asyncio.sleep(60)


async def echo(request: Request) -> str:
    return (await request.body()).decode()


async def large() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    return StreamingResponse(parts())


async def receive_once(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()


async def send_endlessly(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_bytes(b"x" * 65_536)


async def ignore(websocket: WebSocket) -> None:
    """Neither accept nor refuse."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


WEBSOCKETS = {"receive": receive_once, "send": send_endlessly, "ignore": ignore}


class Listener:
    """The app behind real connections, served in this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.config = Config(
            app,
            http=BoundedHttpProtocol,
            ws=BoundedWebSocketProtocol,
            ws_ping_interval=PING_INTERVAL,
            ws_ping_timeout=PING_INTERVAL,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
        )
        self.config.load()
        self.state = ServerState()
        self.reaper = ConnectionReaper(KEEP_ALIVE)
        self.port = 0
        self.clients: list[asyncio.StreamWriter] = []

    async def connect(self, data: bytes = b"") -> asyncio.StreamReader:
        """Open a connection and send ``data``; wait until the server has received it."""
        previous = set(self.state.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(writer)
        writer.write(data)
        for _ in range(500):
            if self.state.connections - previous or reader.at_eof():
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return reader

    def sweep_after(self, seconds: float) -> None:
        """Sweep now, and as if ``seconds`` had passed."""
        now = asyncio.get_running_loop().time()
        for offset in (0, seconds):
            self.reaper.sweep(self.state.connections, now + offset)


@asynccontextmanager
async def listening(settings: Settings, **changes: object) -> AsyncIterator[Listener]:
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        served(app) as listener,
    ):
        yield listener


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[Listener]:
    for route in (slow, large):
        app.add_api_route(f"/test/{route.__name__}", route, response_model=None)
    app.add_api_route("/test/echo", echo, methods=["POST"])
    for name in ("receive", "send", "ignore"):
        app.add_api_websocket_route(f"/test/{name}", WEBSOCKETS[name])
    routing.install_index(app)
    listener = Listener(app)

    def create_protocol() -> BoundedHttpProtocol:
        state = {"settings": app.state.settings}
        return BoundedHttpProtocol(listener.config, listener.state, state)

    server = await asyncio.get_running_loop().create_server(create_protocol, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        for task in (cancelled := set(listener.state.tasks)):
            task.cancel()
        if cancelled:  # they respond before their connections close
            await asyncio.wait(cancelled)
        for connection in list(listener.state.connections):
            connection.transport.abort()
        for client in listener.clients:
            client.close()
        await asyncio.sleep(0.05)


@pytest.fixture
async def listener(settings: Settings) -> AsyncIterator[Listener]:
    changes = {"max_connections": 4, "max_websockets": 1}
    async with listening(settings, **changes) as listener:
        yield listener


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes the connection."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b"reset"


async def read_status(reader: asyncio.StreamReader) -> bytes:
    return (await asyncio.wait_for(reader.readline(), 10)).split()[1]


async def test_incomplete_headers_time_out_with_408(listener: Listener) -> None:
    reader = await listener.connect(PROBE[:20])
    listener.sweep_after(HEADER_TIMEOUT - 1)
    assert listener.state.connections
    listener.sweep_after(HEADER_TIMEOUT + 1)
    response = await read_to_end(reader)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in response


async def test_a_silent_connection_is_closed(listener: Listener) -> None:
    reader = await listener.connect()
    listener.sweep_after(KEEP_ALIVE - 1)
    assert listener.state.connections
    listener.sweep_after(KEEP_ALIVE + 1)
    assert await read_to_end(reader) in (b"", b"reset")


async def test_an_idle_keep_alive_connection_is_not_closed_as_stalled(listener: Listener) -> None:
    reader = await listener.connect(PROBE)
    assert await read_status(reader) == b"200"
    listener.sweep_after(HEADER_TIMEOUT + 1)
    assert len(listener.state.connections) == 1


async def test_too_many_pipelined_requests_abort_the_connection(listener: Listener) -> None:
    reader = await listener.connect(SLOW + PROBE * 1000)
    assert await read_to_end(reader) in (b"", b"reset")


async def test_pipelined_requests_end_when_the_client_disconnects(listener: Listener) -> None:
    await listener.connect(LARGE + PROBE)
    [request] = listener.app.state.in_flight
    listener.clients[-1].transport.abort()
    for _ in range(500):
        if not listener.state.tasks:
            break
        await asyncio.sleep(0.02)
    assert not listener.state.tasks
    assert request.error is None


async def test_an_unread_response_times_out(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "WRITE_TIMEOUT", 0.2)
    await listener.connect(LARGE)
    for _ in range(500):
        if not listener.state.connections:
            break
        await asyncio.sleep(0.02)
    assert not listener.state.connections


async def test_a_silent_connection_is_evicted_at_capacity(listener: Listener) -> None:
    silent = await listener.connect()
    idle = [await listener.connect(PROBE) for _ in range(3)]
    latest = await listener.connect(PROBE)
    assert await read_status(latest) == b"200"
    assert await read_to_end(silent) in (b"", b"reset")
    assert [await read_status(reader) for reader in idle] == [b"200"] * 3


async def test_at_capacity_probes_are_served_and_others_get_503(
    listener: Listener,
) -> None:
    for _ in range(4):
        await listener.connect(SLOW)
    assert await read_status(await listener.connect(PROBE)) == b"200"
    refused = await read_to_end(await listener.connect(SLOW))
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused
    assert_has_default_headers(refused)


def assert_has_default_headers(response: bytes) -> None:
    """What the app adds to each of its responses, and the server to its own."""
    lines = response.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")[1:]
    headers = dict(line.split(b": ", 1) for line in lines)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'")
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-request-id"] in response.partition(b"\r\n\r\n")[2]


async def test_requests_that_the_server_refuses_have_the_default_headers(
    listener: Listener,
) -> None:
    invalid = await read_to_end(await listener.connect(b"nonsense\r\n\r\n"))
    assert invalid.startswith(b"HTTP/1.1 400")
    assert_has_default_headers(invalid)

    incomplete = await listener.connect(b"GET / HTTP/1.1\r\nHost: t")
    listener.sweep_after(HEADER_TIMEOUT + 1)
    refused = await read_to_end(incomplete)
    assert refused.startswith(b"HTTP/1.1 408")
    assert_has_default_headers(refused)


async def test_at_capacity_probes_are_served_with_and_without_a_path_prefix(
    settings: Settings,
) -> None:
    async with listening(settings, max_connections=1, root_path="/shop") as listener:
        await listener.connect(SLOW)
        for probe in (PROBE, PROBE.replace(b"/health", b"/shop/health")):
            assert await read_status(await listener.connect(probe)) == b"200"
        assert await read_status(await listener.connect(SLOW)) == b"503"


async def test_slow_clients_do_not_count_towards_max_in_flight(settings: Settings) -> None:
    async with listening(settings, max_in_flight=1) as listener:
        for request in (INCOMPLETE_BODY, INCOMPLETE_BODY, LARGE):
            await listener.connect(request)
        working = await listener.connect(SLOW)
        assert len(listener.app.state.in_flight) == 4
        assert await read_status(await listener.connect(SLOW)) == b"503"
        assert not working.at_eof()


async def test_websockets_are_limited(listener: Listener) -> None:
    url = f"ws://127.0.0.1:{listener.port}/test/receive"
    async with connect(url) as first:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"] == "1"
        await first.send("goodbye")
        await first.wait_closed()
    async with connect(url):
        pass


async def test_a_websocket_whose_client_never_reads_is_closed(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "WRITE_TIMEOUT", 0.1)
    listener.config.ws_ping_interval = None
    await listener.connect(upgrade("send"))
    await until_closed(listener)


async def test_a_websocket_whose_client_answers_no_ping_is_closed(
    listener: Listener,
) -> None:
    """Whether or not messages are waiting to be read: those would delay a clean close."""
    for name in ("receive", "send"):
        await listener.connect(upgrade(name))
        await until_closed(listener)


async def test_a_websocket_that_is_never_accepted_is_closed(listener: Listener) -> None:
    await listener.connect(upgrade("ignore"))
    listener.sweep_after(listener.app.state.settings.request_timeout - 1)
    assert len(listener.state.connections) == 1
    listener.sweep_after(listener.app.state.settings.request_timeout + 1)
    await until_closed(listener)


def upgrade(name: str) -> bytes:
    """A handshake whose client reads no answer to it."""
    return (
        f"GET /test/{name} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


async def until_closed(listener: Listener) -> None:
    """Wait until no connection is left, and no task of one."""
    for _ in range(500):
        if not listener.state.connections and not listener.state.tasks:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the connection is still open")


async def test_a_late_body_is_a_408(settings: Settings) -> None:
    async with listening(settings, request_timeout=0.2) as listener:
        response = await read_to_end(await listener.connect(INCOMPLETE_BODY))
    assert response.startswith(b"HTTP/1.1 408")
