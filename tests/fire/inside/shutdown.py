"""Processes that stop, in all the ways that there are, while they are asked all the time."""

import os
import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.fire._clients import Send, add_routes, asking, head, port_of, rest
from tests.fire._clients import send as send
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

LONG = 20 if FULL else 1  # seconds of load before something happens

# Routes of these tests alone; those of serving.py are there, too.
MORE = """
    import fastapi
    from starlette.responses import StreamingResponse

    async def events():
        async def parts():
            while True:
                yield "data: event\\n\\n"
                await asyncio.sleep(0.05)
        return StreamingResponse(parts(), media_type="text/event-stream")

    async def take(request: fastapi.Request) -> int:
        return len(await request.body())

    async def talk(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    app.add_api_route("/test/events", events, response_model=None)
    app.add_api_route("/test/take", take, methods=["POST"])
    app.add_api_websocket_route("/test/talk", talk)
"""


@pytest.fixture(autouse=True)
def _more_routes(serve: Serve, tmp_path: Path) -> None:
    add_routes(tmp_path, MORE)


def clean(server: Server) -> None:
    """Every process closed its pools, none had to be killed, and the log speaks of no error."""
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
    with asking(port, kept=8, new=8) as clients:
        time.sleep(LONG)
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health/ready").status_code == 503, 3)
        clients.no_more_new.set()  # a load balancer sends nothing new from here
        assert server.process.wait(30) == 0
    note(requests=clients.answered, lost=len(clients.cut))
    assert not clients.cut
    assert set(clients.answers) == {"200"}
    clean(server)


def test_the_backlog_is_served_when_the_listener_closes(
    serve: Serve, send: Send, note: Note
) -> None:
    server = serve(DRAIN_SECONDS="1", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.get("/health/ready").status_code == 503, 3)
    # While the process can't look, its time to drain ends; connections come to the listener.
    busy = send(port, head("GET", "/test/busy?seconds=2"))
    time.sleep(0.3)
    late = [send(port, head("GET", "/test/pid")) for _ in range(20)]
    answers = [rest(connection) for connection in [busy, *late]]
    assert server.process.wait(30) == 0
    note(requests=21, lost=sum(not answer.startswith(b"HTTP/1.1 200") for answer in answers))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_the_last_connections_have_time_for_a_first_request(
    serve: Serve, send: Send, note: Note
) -> None:
    server = serve(DRAIN_SECONDS="1", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.get("/health/ready").status_code == 503, 3)
    time.sleep(0.5)
    late = [send(port) for _ in range(20)]
    time.sleep(1.5)  # the listener is closed for a second by now
    for connection in late:
        connection.sendall(head("GET", "/test/pid"))
    answers = [rest(connection) for connection in late]
    assert server.process.wait(30) == 0
    note(requests=20, lost=sum(not answer.startswith(b"HTTP/1.1 200") for answer in answers))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_open_streams_and_websockets_end_cleanly_on_sigterm(serve: Serve, send: Send) -> None:
    server = serve(DRAIN_SECONDS="1", GUNICORN_CMD_ARGS="--graceful-timeout 50")
    port = port_of(server.url)
    events = send(port, head("GET", "/test/events"))
    assert b"200 OK" in events.recv(1000)
    body = send(port, head("POST", "/test/take", "Content-Length: 10") + b"12345")
    with connect(f"ws://127.0.0.1:{port}/test/talk", close_timeout=5) as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2.5)  # longer than it drains: it waits for what is in flight
        body.sendall(b"67890")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012  # "service restart"
    assert rest(body).endswith(b"\r\n\r\n10")
    assert rest(events).endswith(b"\r\n0\r\n\r\n"), "the end of a stream, not a cut"
    assert server.process.wait(60) == 0
    assert time.monotonic() - start < 30, "streams of events need not be waited for"
    clean(server)


def test_an_incomplete_body_does_not_outlast_the_grace_period(serve: Serve, send: Send) -> None:
    server = serve(GUNICORN_CMD_ARGS="--graceful-timeout 9")  # two seconds for what is in flight
    body = send(port_of(server.url), head("POST", "/test/take", "Content-Length: 10") + b"12345")
    time.sleep(0.5)
    assert server.stop() == 0
    answer = rest(body)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in answer
    clean(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_max_requests_restarts_lose_no_request(serve: Serve, note: Note, workers: str) -> None:
    most = "400" if FULL else "200"
    arguments = f"--max-requests {most} --max-requests-jitter 50"
    server = serve(GUNICORN_CMD_ARGS=arguments, WEB_CONCURRENCY=workers)
    with asking(port_of(server.url), rare=4) as clients:
        wanted = 20 if FULL else 3
        server.until(lambda: server.log.read_text().count("Booting worker") >= wanted + 2, 600)
    assert server.stop(60) == 0
    recycled = server.log.read_text().count("Maximum request limit")
    note(requests=clients.answered, recycled=recycled, lost=len(clients.cut))
    assert not clients.cut
    assert set(clients.answers) == {"200"}
    clean(server)


def test_reloads_under_load_lose_no_request(serve: Serve, note: Note) -> None:
    server = serve(DRAIN_SECONDS="1")
    reloads = 5 if FULL else 1
    with asking(port_of(server.url)) as clients:
        for _ in range(reloads):
            server.until(lambda: len(server.workers()) == 2)
            before = server.workers()
            server.process.send_signal(signal.SIGHUP)
            server.until(lambda before=before: not server.workers() & before, 60)  # type: ignore[misc]
    assert server.stop(60) == 0
    note(requests=clients.answered, reloads=reloads, lost=len(clients.cut))
    assert not clients.cut
    assert set(clients.answers) == {"200"}


def test_a_killed_worker_loses_only_its_requests_in_flight(serve: Serve, note: Note) -> None:
    server = serve()
    server.until(lambda: len(server.workers()) == 2)
    kills = 10 if FULL else 2
    with asking(port_of(server.url), kept=4, new=4) as clients:
        for _ in range(kills):
            before = server.workers()
            os.kill(before.pop(), signal.SIGKILL)
            server.until(lambda before=before: len(server.workers() - before) == 1, 60)  # type: ignore[misc]
            time.sleep(LONG / 2)
    assert server.stop(60) == 0
    note(requests=clients.answered, killed=kills, lost=len(clients.cut))
    assert len(clients.cut) <= 8 * kills, "a client has one request in flight"
    assert set(clients.answers) == {"200"}


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_draining(serve: Serve, second: signal.Signals, note: Note) -> None:
    server = serve(DRAIN_SECONDS="3")
    with asking(port_of(server.url), new=0) as clients:
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health/ready").status_code == 503, 3)
        server.process.send_signal(second)
        assert server.process.wait(30) == 0
    note(signal=second.name, requests=clients.answered, lost=len(clients.cut))
    if second == signal.SIGTERM:  # to say it twice changes nothing; SIGINT means at once
        assert not clients.cut
    clean(server)


def test_sigint_stops_immediately_and_cleanly(serve: Serve, send: Send) -> None:
    server = serve(DRAIN_SECONDS="10")
    waiting = send(port_of(server.url), head("GET", "/test/slow?seconds=60"))
    time.sleep(0.5)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(8) == 0
    assert rest(waiting).startswith(b"HTTP/1.1 503")
    clean(server)
