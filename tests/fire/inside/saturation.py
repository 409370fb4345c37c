"""More than a service can take: ten times the load, slow clients, floods of connections."""

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

from tests.fire._clients import Send, add_routes, head, port_of, rest
from tests.fire._clients import send as send
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

SECONDS = 30 if FULL else 4
SLOW_CLIENTS = 500 if FULL else 150
PAGE = os.sysconf("SC_PAGE_SIZE")

# What the bounds are is tested in test_connections.py; here nobody wants to wait for them.
IMPATIENT = """
    import fastapi
    from app.platform.server import connection_limits
    connection_limits.HEADER_TIMEOUT = connection_limits.WRITE_TIMEOUT = 4

    async def take(request: fastapi.Request) -> int:
        return len(await request.body())

    async def large():
        from starlette.responses import StreamingResponse
        async def parts():
            for _ in range(100_000):
                yield b"x" * 65_536
        return StreamingResponse(parts())

    app.add_api_route("/test/take", take, methods=["POST"])
    app.add_api_route("/test/large", large, response_model=None)
"""


@pytest.fixture(autouse=True)
def _more_routes(serve: Serve, tmp_path: Path) -> None:
    add_routes(tmp_path, IMPATIENT)


def memory(server: Server) -> int:
    """The bytes that all processes of the server hold."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    total = 0
    for process in [str(parent), *children]:
        total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    return total


class Vitals:
    """What a probe sees while something goes on: is it alive, how large does it get."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self.memory: list[int] = []

    def probe(self) -> None:
        start = time.monotonic()
        try:
            status = httpx2.get(self.server.url + "/health/live", timeout=10).status_code
            if status != 200:
                self.failed.append(str(status))
        except httpx2.TransportError as error:
            self.failed.append(repr(error))
        self.seconds.append(time.monotonic() - start)
        self.memory.append(memory(self.server))

    @property
    def growth(self) -> float:
        """How much larger it got than it was at the start, in MiB."""
        return round((max(self.memory) - self.memory[0]) / 2**20, 1)


@contextmanager
def watched(server: Server) -> Iterator[Vitals]:
    vitals = Vitals(server)
    vitals.probe()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            vitals.probe()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield vitals
    finally:
        stop.set()
        thread.join()


class Crowd:
    """Clients that each ask so often, whatever becomes of it."""

    def __init__(self, port: int, path: str, clients: int, every: float) -> None:
        self.port, self.path, self.every = port, path, every
        self.answers: Counter[int] = Counter()
        self.seconds: dict[int, list[float]] = {}
        self.without_retry_after = 0
        self.lost: list[str] = []
        self.clients = clients

    def ask(self, seconds: float) -> None:
        with ThreadPoolExecutor(self.clients) as pool:
            for future in [pool.submit(self._ask, seconds) for _ in range(self.clients)]:
                future.result()

    def _ask(self, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        end = time.monotonic() + seconds
        while (start := time.monotonic()) < end:
            try:
                connection.request("GET", self.path)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            self.answers[answer.status] += 1
            self.seconds.setdefault(answer.status, []).append(time.monotonic() - start)
            if answer.status in (429, 503) and not answer.getheader("retry-after"):
                self.without_retry_after += 1
            time.sleep(max(0.0, start + self.every - time.monotonic()))
        connection.close()


def serves(server: Server, path: str = "/test/slow?seconds=0.01") -> bool:
    """Whether service is normal: twenty are served, one after the other."""
    return {server.get(path).status_code for _ in range(20)} == {200}


def test_excess_load_is_shed(serve: Serve, note: Note) -> None:
    # Two processes with two requests each, of a fifth of a second: 20 a second. 200 are asked.
    server = serve(MAX_IN_FLIGHT="2")
    assert serves(server)
    crowd = Crowd(port_of(server.url), "/test/slow?seconds=0.2", clients=40, every=0.2)
    with watched(server) as vitals:
        crowd.ask(SECONDS)
    start = time.monotonic()
    server.until(lambda: serves(server), 20)
    refused, served = (statistics.median(crowd.seconds[status]) for status in (503, 200))
    note(
        seconds=SECONDS,
        answers=dict(crowd.answers),
        refused_in_ms=round(refused * 1000, 1),
        served_in_ms=round(served * 1000, 1),
        growth_mib=vitals.growth,
        recovered_after_s=round(time.monotonic() - start, 1),
        lost=len(crowd.lost),
    )
    assert not crowd.lost
    assert set(crowd.answers) == {200, 503}
    assert crowd.answers[503] > crowd.answers[200], "it was more than it can do"
    assert not crowd.without_retry_after
    assert refused < served
    assert not vitals.failed
    assert vitals.growth < 64
    assert server.stop() == 0


def test_a_client_at_ten_times_its_limit_gets_429(serve: Serve, note: Note) -> None:
    server = serve(RATE_LIMIT="20/second")
    crowd = Crowd(port_of(server.url), "/api/v1/items", clients=20, every=0.1)
    with watched(server) as vitals:
        crowd.ask(SECONDS)
    note(seconds=SECONDS, answers=dict(crowd.answers), growth_mib=vitals.growth)
    assert not crowd.lost
    assert crowd.answers[429] > 0
    assert not [status for status in crowd.answers if status >= 500]
    assert not crowd.without_retry_after
    assert not vitals.failed
    assert vitals.growth < 64
    assert server.stop() == 0


SLOWLY = {
    "nothing": b"",
    "a head": b"GET /test/pid HTTP/1.1\r\nHost: te",
    "a body": head("POST", "/test/take", "Content-Length: 100") + b"x",
    "reading": head("GET", "/test/large"),
}


@pytest.mark.parametrize("what", SLOWLY)
def test_slow_clients_do_not_block_others(serve: Serve, send: Send, note: Note, what: str) -> None:
    server = serve(MAX_IN_FLIGHT="20", REQUEST_TIMEOUT="4", GUNICORN_CMD_ARGS="--keep-alive 4")
    port = port_of(server.url)
    server.until(lambda: len(server.workers()) == 2)
    slow = [send(port, SLOWLY[what]) for _ in range(SLOW_CLIENTS if what != "reading" else 50)]
    with watched(server) as vitals:
        answers = Counter(server.get("/test/slow?seconds=0.01").status_code for _ in range(50))
        for connection in slow:
            if what != "reading":
                rest(connection)  # returns once the server has closed
        if what == "reading":
            server.until(lambda: held(server) < 20, 30)
    note(slow_clients=len(slow), answers=dict(answers), growth_mib=vitals.growth)
    assert set(answers) == {200}
    assert not vitals.failed
    assert vitals.growth < 64
    assert server.stop() == 0


def held(server: Server) -> int:
    """How many sockets the processes of the server have open."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    folders = (Path(f"/proc/{child}/fd") for child in children)
    return sum(is_socket(file) for folder in folders for file in folder.iterdir())


def is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile
        return False


def test_a_flood_of_connections(serve: Serve, send: Send, note: Note) -> None:
    server = serve(MAX_CONNECTIONS="50", WEB_CONCURRENCY="1")
    port = port_of(server.url)
    flood = SLOW_CLIENTS * 2
    with watched(server) as vitals:
        connections = [send(port) for _ in range(flood)]
        assert serves(server)
    still = sum(is_open(connection) for connection in connections)
    note(connections=flood, held=still, growth_mib=vitals.growth)
    assert not vitals.failed
    assert still <= 50
    assert server.stop() == 0


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
