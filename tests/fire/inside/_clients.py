"""HTTP clients in threads that send requests continuously and count the outcomes."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

SLOW = "/test/slow?seconds=0.01"


def add_routes(folder: Path, code: str) -> None:
    """Add code to the app that the `serve` fixture has written to ``folder``."""
    file = folder / "service_under_test.py"
    before, last_line, after = file.read_text().partition("    routing.install_index(app)")
    assert last_line
    file.write_text(before + code + last_line + after)


class Clients:
    """Clients of one server, with keep-alive or with a new connection for each request.

    ``statuses`` counts responses. ``lost``: errors of requests that were sent and got no complete
    response. ``refused``: connections refused because nothing listens; such a client stops.
    """

    def __init__(self, port: int, path: str = SLOW) -> None:
        self.port = port
        self.path = path
        self.statuses: Counter[str] = Counter()
        self.lost: list[str] = []
        self.refused = 0
        self.stop = threading.Event()
        self.stop_new = threading.Event()

    @property
    def responses(self) -> int:
        return self.statuses.total()

    def run_keep_alive(self, pause: float = 0) -> None:
        """Send requests over one connection; open another when the server closes it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stop.is_set() and self._request(connection):
            self.stop.wait(pause)
        connection.close()

    def run_new_connections(self) -> None:
        """Send each request over a new connection."""
        while not self.stop.is_set() and not self.stop_new.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            if not self._request(connection):
                return
            connection.close()

    def _request(self, connection: http.client.HTTPConnection) -> bool:
        """Send a request; return ``False`` if the connection was refused."""
        try:
            connection.request("GET", self.path)
            response = connection.getresponse()
            response.read()
        except ConnectionRefusedError:
            self.refused += 1
            return False
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
            connection.close()
        else:
            self.statuses[str(response.status)] += 1
        return True


@contextmanager
def running_clients(
    port: int, keep_alive: int = 4, new: int = 4, infrequent: int = 0, path: str = SLOW
) -> Iterator[Clients]:
    """Run clients until the block ends, or until nothing listens on the port.

    ``infrequent``: keep-alive clients that send a request every two seconds.
    """
    clients = Clients(port, path)
    run_infrequent = partial(clients.run_keep_alive, 2.0)
    targets: list[Callable[[], None]] = [
        *[clients.run_keep_alive] * keep_alive,
        *[clients.run_new_connections] * new,
        *[run_infrequent] * infrequent,
    ]
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 30
        while clients.responses < 20 and time.monotonic() < end:
            time.sleep(0.05)
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join()


Send = Callable[..., socket.socket]


@pytest.fixture
def send() -> Iterator[Send]:
    """A function that opens a connection and sends data; all are closed at the end."""
    connections: list[socket.socket] = []

    def send(port: int, data: bytes = b"", seconds: float = 60) -> socket.socket:
        connections.append(socket.create_connection(("127.0.0.1", port), timeout=seconds))
        connections[-1].sendall(data)
        return connections[-1]

    yield send
    for connection in connections:
        connection.close()


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"<reset>")
    return b"".join(parts)


def request_head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
