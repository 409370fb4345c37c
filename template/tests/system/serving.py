"""The server as in production, and what tests of it need: its log, requests all the time."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

Serve = Callable[..., "Server"]

# Routes that only these tests need, in an app that is otherwise the real one.
APP = """
import asyncio, os, threading
from pathlib import Path
from fastapi import Request
from app import main
from app.platform.http import routing
from app.platform.server import gunicorn_worker

gunicorn_worker.HEARTBEAT_INTERVAL = float(os.environ.get("HEARTBEAT_INTERVAL", "5"))

def create_app():
    app = main.create_app()

    async def pid() -> int:
        return os.getpid()

    async def slow(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()

    async def gate(name: str) -> None:
        here = Path(os.environ["GATES"])
        (here / f"{name}-reached").touch()
        while not (here / f"{name}-open").exists():
            await asyncio.sleep(0.02)

    async def stream():
        from starlette.responses import StreamingResponse
        async def parts():
            while True:
                yield "part "
                await asyncio.sleep(0.1)
        return StreamingResponse(parts())

    async def busy(seconds: float) -> None:
        import time
        time.sleep(seconds)

    async def echo(request: Request) -> list[str]:
        return [(await request.body()).decode(), *request.headers.keys()]

    app.add_api_route("/test/echo", echo, methods=["POST"])
    for route in (pid, slow, busy, gate):
        app.add_api_route(f"/test/{route.__name__}", route)
    app.add_api_route("/test/stream", stream, response_model=None)
    routing.install_index(app)
    assert threading.active_count() == 1, "threads do not survive the fork"
    return app
"""


class Server:
    """Gunicorn with two workers, and what it wrote."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.asked = 0  # how often /test/pid has answered

    def get(self, path: str, **headers: str) -> httpx2.Response:
        # Without TLS: what a client of its own reads for that takes longer than the request.
        return httpx2.get(self.url + path, headers=headers, timeout=10, verify=False)

    def until(self, holds: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something holds, and fail with the log when it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(f"it did not come about; the log is\n{self.log.read_text()}")

    def answers_or_ended(self) -> bool:
        return self.process.poll() is not None or self.get("/health/live").is_success

    def workers(self) -> set[int]:
        """The processes that answer."""
        return {self.pid() for _ in range(16)}

    def pid(self) -> int:
        pid: int = self.get("/test/pid").json()
        self.asked += 1
        return pid

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, seconds: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def load(server: Server, path: str = "/test/slow?seconds=0.01") -> Iterator["Counter[str]"]:
    """Ask all the time, over connections that are kept, and count what comes back."""
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=server.url, timeout=10, verify=False) as client:
            while not stop.is_set():
                try:
                    answers[str(client.get(path).status_code)] += 1
                except httpx2.TransportError as error:
                    answers[f"lost: {error!r}"] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
