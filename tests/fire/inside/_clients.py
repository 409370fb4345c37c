"""Clients that ask all the time, each in a thread, and count what became of what they sent."""

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
    """Put code into the application that `serve` has written to ``folder`` and will run."""
    application = folder / "service_under_test.py"
    before, last, after = application.read_text().partition("    routing.install_index(app)")
    assert last
    application.write_text(before + code + last + after)


class Clients:
    """Some keep their connections, some take a new one for each request.

    ``answers`` counts statuses. What was sent and not answered is ``cut``; who finds no listener
    any more is ``refused``, and goes.
    """

    def __init__(self, port: int, path: str = SLOW) -> None:
        self.port = port
        self.path = path
        self.answers: Counter[str] = Counter()
        self.cut: list[str] = []
        self.refused = 0
        self.stop = threading.Event()
        self.no_more_new = threading.Event()

    @property
    def answered(self) -> int:
        return self.answers.total()

    def keep(self, pause: float = 0) -> None:
        """Ask over one connection for as long as the server keeps it, then over the next."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stop.is_set() and self._ask(connection):
            self.stop.wait(pause)
        connection.close()

    def renew(self) -> None:
        """Ask over a new connection each time."""
        while not self.stop.is_set() and not self.no_more_new.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            if not self._ask(connection):
                return
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        try:
            connection.request("GET", self.path)
            answer = connection.getresponse()
            answer.read()
        except ConnectionRefusedError:
            self.refused += 1
            return False
        except (OSError, http.client.HTTPException) as error:
            self.cut.append(repr(error))
            connection.close()
        else:
            self.answers[str(answer.status)] += 1
        return True


@contextmanager
def asking(
    port: int, kept: int = 4, new: int = 4, rare: int = 0, path: str = SLOW
) -> Iterator[Clients]:
    """Run clients until the block ends, or until they find nobody.

    ``rare``: of those who keep their connection, and ask every other second.
    """
    clients = Clients(port, path)
    rarely = partial(clients.keep, 2.0)
    work: list[Callable[[], None]] = [clients.keep] * kept + [clients.renew] * new + [rarely] * rare
    threads = [threading.Thread(target=client) for client in work]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 30
        while clients.answered < 20 and time.monotonic() < end:
            time.sleep(0.05)
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join()


Send = Callable[..., socket.socket]


@pytest.fixture
def send() -> Iterator[Send]:
    """Open a connection and send something; all are closed in the end."""
    opened: list[socket.socket] = []

    def send(port: int, data: bytes = b"", seconds: float = 60) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=seconds))
        opened[-1].sendall(data)
        return opened[-1]

    yield send
    for connection in opened:
        connection.close()


def rest(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"<reset>")
    return b"".join(parts)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
