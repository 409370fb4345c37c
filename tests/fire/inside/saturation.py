"""Overload: ten times the capacity, slow clients, and floods of connections."""

import http.client
import os
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.fire._clients import Send, add_routes, port_of, read_to_end, request_head
from tests.fire._clients import send as send
from tests.fire._wire import gunicorn_workers
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

SECONDS = 30 if FULL else 4
SLOW_CLIENTS = 500 if FULL else 150
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

# Short time-outs; test_connection_limits.py tests the real ones.
ROUTES = """
    import fastapi
    from app.platform.server import connection_limits
    connection_limits.HEADER_TIMEOUT = connection_limits.WRITE_TIMEOUT = 4

    async def body_size(request: fastapi.Request) -> int:
        return len(await request.body())

    async def large():
        from starlette.responses import StreamingResponse
        async def parts():
            for _ in range(100_000):
                yield b"x" * 65_536
        return StreamingResponse(parts())

    app.add_api_route("/test/body-size", body_size, methods=["POST"])
    app.add_api_route("/test/large", large, response_model=None)
"""


@pytest.fixture(autouse=True)
def _more_routes(serve: Serve, tmp_path: Path) -> None:
    add_routes(tmp_path, ROUTES)


def resident_bytes(server: Server) -> int:
    """The resident memory of all processes of the server, in bytes."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    total = 0
    for process in [str(parent), *children]:
        total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_SIZE
    return total


class Monitor:
    """Probes the server's liveness, and records its memory."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.failed_probes: list[str] = []
        self.memory: list[int] = []

    def probe(self) -> None:
        try:
            status = httpx2.get(self.server.url + "/health/live", timeout=10).status_code
            if status != 200:
                self.failed_probes.append(str(status))
        except httpx2.TransportError as error:
            self.failed_probes.append(repr(error))
        self.memory.append(resident_bytes(self.server))

    @property
    def growth_mib(self) -> float:
        """The growth of the server's memory, from the first probe to its maximum, in MiB."""
        return round((max(self.memory) - self.memory[0]) / 2**20, 1)


@contextmanager
def monitored(server: Server, workers: int = 2) -> Iterator[Monitor]:
    """Probe the server five times a second, from when all its workers exist."""
    gunicorn_workers(server, workers)
    monitor = Monitor(server)
    monitor.probe()
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.2):
            monitor.probe()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield monitor
    finally:
        stop.set()
        thread.join()


class LoadGenerator:
    """Clients that each send a request per ``interval`` seconds, whatever the responses."""

    def __init__(self, port: int, path: str, clients: int, interval: float) -> None:
        self.port, self.path, self.interval = port, path, interval
        self.statuses: Counter[int] = Counter()
        self.latencies: dict[int, list[float]] = {}  # seconds, by status
        self.without_retry_after = 0
        self.lost: list[str] = []
        self.clients = clients

    def run(self, seconds: float) -> None:
        with ThreadPoolExecutor(self.clients) as pool:
            for future in [pool.submit(self._run_client, seconds) for _ in range(self.clients)]:
                future.result()

    def _run_client(self, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        end = time.monotonic() + seconds
        while (start := time.monotonic()) < end:
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            self.statuses[response.status] += 1
            self.latencies.setdefault(response.status, []).append(time.monotonic() - start)
            if response.status in (429, 503) and not response.getheader("retry-after"):
                self.without_retry_after += 1
            time.sleep(max(0.0, start + self.interval - time.monotonic()))
        connection.close()


def is_healthy(server: Server, path: str = "/test/slow?seconds=0.01") -> bool:
    """Whether twenty requests in a row succeed."""
    return {server.get(path).status_code for _ in range(20)} == {200}


def test_excess_load_is_shed(serve: Serve, note: Note) -> None:
    # Capacity: two processes with two requests each, of 0.2 s: 20 per second. Load: 200 per second.
    server = serve(MAX_IN_FLIGHT="2")
    assert is_healthy(server)
    load = LoadGenerator(port_of(server.url), "/test/slow?seconds=0.2", clients=40, interval=0.2)
    with monitored(server) as monitor:
        load.run(SECONDS)
    start = time.monotonic()
    server.until(lambda: is_healthy(server), 20)
    refused, served = (statistics.median(load.latencies[status]) for status in (503, 200))
    note(
        seconds=SECONDS,
        statuses=dict(load.statuses),
        refused_in_ms=round(refused * 1000, 1),
        served_in_ms=round(served * 1000, 1),
        growth_mib=monitor.growth_mib,
        recovered_after_s=round(time.monotonic() - start, 1),
        lost=len(load.lost),
    )
    assert not load.lost
    assert set(load.statuses) == {200, 503}
    assert load.statuses[503] > load.statuses[200], "the load exceeded the capacity"
    assert not load.without_retry_after
    assert refused < served
    assert not monitor.failed_probes
    assert monitor.growth_mib < 64
    assert server.stop() == 0


def test_a_client_at_ten_times_its_limit_gets_429(serve: Serve, note: Note) -> None:
    server = serve(RATE_LIMIT="20/second")
    load = LoadGenerator(port_of(server.url), "/api/v1/items", clients=20, interval=0.1)
    with monitored(server) as monitor:
        load.run(SECONDS)
    note(seconds=SECONDS, statuses=dict(load.statuses), growth_mib=monitor.growth_mib)
    assert not load.lost
    assert load.statuses[429] > 0
    assert not [status for status in load.statuses if status >= 500]
    assert not load.without_retry_after
    assert not monitor.failed_probes
    assert monitor.growth_mib < 64
    assert server.stop() == 0


SLOW_REQUESTS = {
    "nothing": b"",
    "headers": b"GET /test/pid HTTP/1.1\r\nHost: te",
    "body": request_head("POST", "/test/body-size", "Content-Length: 100") + b"x",
    "reading": request_head("GET", "/test/large"),
}


@pytest.mark.parametrize("what", SLOW_REQUESTS)
def test_slow_clients_do_not_block_others(serve: Serve, send: Send, note: Note, what: str) -> None:
    server = serve(MAX_IN_FLIGHT="20", REQUEST_TIMEOUT="4", GUNICORN_CMD_ARGS="--keep-alive 4")
    port = port_of(server.url)
    server.until(lambda: len(server.workers()) == 2)
    count = SLOW_CLIENTS if what != "reading" else 50
    slow = [send(port, SLOW_REQUESTS[what]) for _ in range(count)]
    with monitored(server) as monitor:
        statuses = Counter(server.get("/test/slow?seconds=0.01").status_code for _ in range(50))
        if what == "reading":
            server.until(lambda: open_sockets(server) < 20, 30)
        else:
            for connection in slow:
                read_to_end(connection)  # returns when the server closes the connection
    note(slow_clients=len(slow), statuses=dict(statuses), growth_mib=monitor.growth_mib)
    assert set(statuses) == {200}
    assert not monitor.failed_probes
    assert monitor.growth_mib < 64
    assert server.stop() == 0


def open_sockets(server: Server) -> int:
    """The number of sockets that the server's processes have open."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    folders = (Path(f"/proc/{child}/fd") for child in children)
    return sum(is_socket(file) for folder in folders for file in folder.iterdir())


def is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed in the meantime
        return False


def test_a_flood_of_connections(serve: Serve, send: Send, note: Note) -> None:
    server = serve(MAX_CONNECTIONS="50", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    with monitored(server, workers=1) as monitor:
        connections = [send(port) for _ in range(SLOW_CLIENTS * 2)]
        assert is_healthy(server)
    still_open = sum(is_open(connection) for connection in connections)
    note(connections=len(connections), still_open=still_open, growth_mib=monitor.growth_mib)
    assert not monitor.failed_probes
    assert still_open <= 50
    assert server.stop() == 0


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
