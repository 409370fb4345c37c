"""Shutdown, restart and reload of the server's processes under load."""

import os
import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.fire._clients import (
    Send,
    add_routes,
    port_of,
    read_to_end,
    request_head,
    running_clients,
)
from tests.fire._clients import send as send
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

LOAD_SECONDS = 20 if FULL else 1  # before the signal

# In addition to the routes of serving.py.
ROUTES = """
    import fastapi
    from starlette.responses import StreamingResponse

    async def events():
        async def parts():
            while True:
                yield "data: event\\n\\n"
                await asyncio.sleep(0.05)
        return StreamingResponse(parts(), media_type="text/event-stream")

    async def body_size(request: fastapi.Request) -> int:
        return len(await request.body())

    async def echo(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    app.add_api_route("/test/events", events, response_model=None)
    app.add_api_route("/test/body-size", body_size, methods=["POST"])
    app.add_api_websocket_route("/test/websocket", echo)
"""


@pytest.fixture(autouse=True)
def _more_routes(serve: Serve, tmp_path: Path) -> None:
    add_routes(tmp_path, ROUTES)


def assert_clean_shutdown(server: Server) -> None:
    """Every process closed its pools, none was killed, and no error was logged."""
    events = [str(line["event"]) for line in server.lines()]
    assert events.count("Application shutdown complete.") == events.count(
        "Application startup complete."
    )
    assert not [event for event in events if "SIGKILL" in event or event.startswith("Error")]
    errors = [line for line in server.lines() if line["level"] == "error"]
    assert not [line for line in errors if line["logger"] != "app.request"]


def test_sigterm_under_load_loses_no_request(serve: Serve, note: Note) -> None:
    server = serve(DRAIN_SECONDS="3")
    port = port_of(server.url)
    with running_clients(port, keep_alive=8, new=8) as clients:
        time.sleep(LOAD_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health/ready").status_code == 503, 3)
        clients.stop_new.set()  # as a load balancer does
        assert server.process.wait(30) == 0
    note(requests=clients.responses, lost=len(clients.lost))
    assert not clients.lost
    assert set(clients.statuses) == {"200"}
    assert_clean_shutdown(server)


def test_the_backlog_is_served_when_the_listener_closes(
    serve: Serve, send: Send, note: Note
) -> None:
    server = serve(DRAIN_SECONDS="1", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.get("/health/ready").status_code == 503, 3)
    # The drain ends while the event loop is blocked; connections wait in the backlog.
    busy = send(port, request_head("GET", "/test/busy?seconds=2"))
    time.sleep(0.3)
    late = [send(port, request_head("GET", "/test/pid")) for _ in range(20)]
    responses = [read_to_end(connection) for connection in [busy, *late]]
    assert server.process.wait(30) == 0
    lost = sum(not response.startswith(b"HTTP/1.1 200") for response in responses)
    note(requests=21, lost=lost)
    assert not lost


def test_the_last_connections_have_time_for_a_first_request(
    serve: Serve, send: Send, note: Note
) -> None:
    server = serve(DRAIN_SECONDS="1", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.get("/health/ready").status_code == 503, 3)
    time.sleep(0.5)
    late = [send(port) for _ in range(20)]
    time.sleep(1.5)  # the listener has been closed for a second
    for connection in late:
        connection.sendall(request_head("GET", "/test/pid"))
    responses = [read_to_end(connection) for connection in late]
    assert server.process.wait(30) == 0
    lost = sum(not response.startswith(b"HTTP/1.1 200") for response in responses)
    note(requests=20, lost=lost)
    assert not lost


def test_open_streams_and_websockets_end_cleanly_on_sigterm(serve: Serve, send: Send) -> None:
    server = serve(DRAIN_SECONDS="1", GUNICORN_CMD_ARGS="--graceful-timeout 50")
    port = port_of(server.url)
    events = send(port, request_head("GET", "/test/events"))
    assert b"200 OK" in events.recv(1000)
    body = send(port, request_head("POST", "/test/body-size", "Content-Length: 10") + b"12345")
    with connect(f"ws://127.0.0.1:{port}/test/websocket", close_timeout=5) as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2.5)  # longer than the drain: the server waits for requests in flight
        body.sendall(b"67890")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012  # "service restart"
    assert read_to_end(body).endswith(b"\r\n\r\n10")
    assert read_to_end(events).endswith(b"\r\n0\r\n\r\n"), "ended with the last chunk"
    assert server.process.wait(60) == 0
    assert time.monotonic() - start < 30, "the server does not wait for event streams"
    assert_clean_shutdown(server)


def test_an_incomplete_body_does_not_outlast_the_grace_period(serve: Serve, send: Send) -> None:
    server = serve(GUNICORN_CMD_ARGS="--graceful-timeout 9")  # 2 s of it for requests in flight
    head = request_head("POST", "/test/body-size", "Content-Length: 10")
    body = send(port_of(server.url), head + b"12345")
    time.sleep(0.5)
    assert server.stop() == 0
    response = read_to_end(body)
    assert response.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in response
    assert_clean_shutdown(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_max_requests_restarts_lose_no_request(serve: Serve, note: Note, workers: str) -> None:
    max_requests = "400" if FULL else "200"
    arguments = f"--max-requests {max_requests} --max-requests-jitter 50"
    server = serve(GUNICORN_CMD_ARGS=arguments, WEB_CONCURRENCY=workers)
    restarts = 20 if FULL else 3
    with running_clients(port_of(server.url), infrequent=4) as clients:
        server.until(lambda: server.log.read_text().count("Booting worker") >= restarts + 2, 600)
    assert server.stop(60) == 0
    recycled = server.log.read_text().count("Maximum request limit")
    note(requests=clients.responses, recycled=recycled, lost=len(clients.lost))
    assert not clients.lost
    assert set(clients.statuses) == {"200"}
    assert_clean_shutdown(server)


def test_reloads_under_load_lose_no_request(serve: Serve, note: Note) -> None:
    server = serve(DRAIN_SECONDS="1")
    reloads = 5 if FULL else 1
    with running_clients(port_of(server.url)) as clients:
        for _ in range(reloads):
            server.until(lambda: len(server.workers()) == 2)
            before = server.workers()
            server.process.send_signal(signal.SIGHUP)
            server.until(lambda before=before: not server.workers() & before, 60)  # type: ignore[misc]
    assert server.stop(60) == 0
    note(requests=clients.responses, reloads=reloads, lost=len(clients.lost))
    assert not clients.lost
    assert set(clients.statuses) == {"200"}


def test_a_killed_worker_loses_only_its_requests_in_flight(serve: Serve, note: Note) -> None:
    server = serve()
    server.until(lambda: len(server.workers()) == 2)
    kills = 10 if FULL else 2
    with running_clients(port_of(server.url), keep_alive=4, new=4) as clients:
        for _ in range(kills):
            before = server.workers()
            os.kill(before.pop(), signal.SIGKILL)
            server.until(lambda before=before: len(server.workers() - before) == 1, 60)  # type: ignore[misc]
            time.sleep(LOAD_SECONDS / 2)
    assert server.stop(60) == 0
    note(requests=clients.responses, killed=kills, lost=len(clients.lost))
    assert len(clients.lost) <= 8 * kills, "each client has one request in flight"
    assert set(clients.statuses) == {"200"}


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_draining(serve: Serve, second: signal.Signals, note: Note) -> None:
    server = serve(DRAIN_SECONDS="3")
    with running_clients(port_of(server.url), new=0) as clients:
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health/ready").status_code == 503, 3)
        server.process.send_signal(second)
        assert server.process.wait(30) == 0
    note(signal=second.name, requests=clients.responses, lost=len(clients.lost))
    if second == signal.SIGTERM:  # a second SIGTERM changes nothing; SIGINT stops immediately
        assert not clients.lost
    assert_clean_shutdown(server)


def test_sigint_stops_immediately_and_cleanly(serve: Serve, send: Send) -> None:
    server = serve(DRAIN_SECONDS="10")
    waiting = send(port_of(server.url), request_head("GET", "/test/slow?seconds=60"))
    time.sleep(0.5)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(8) == 0
    assert read_to_end(waiting).startswith(b"HTTP/1.1 503")
    assert_clean_shutdown(server)
