"""A server process for tests: Gunicorn as in production, its log, and load."""

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

# The real app, with more routes for these tests.
APP = """
import asyncio, os, threading, time
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
        time.sleep(seconds)

    async def thread(seconds: float) -> None:
        (Path(os.environ["GATES"]) / "thread-reached").touch()
        await asyncio.to_thread(time.sleep, seconds)

    def sync(seconds: float) -> None:
        (Path(os.environ["GATES"]) / "sync-reached").touch()
        time.sleep(seconds)

    async def echo(request: Request) -> list[str]:
        return [(await request.body()).decode(), *request.headers.keys()]

    app.add_api_route("/test/echo", echo, methods=["POST"])
    for route in (pid, slow, busy, gate, thread, sync):
        app.add_api_route(f"/test/{route.__name__}", route)
    app.add_api_route("/test/stream", stream, response_model=None)
    routing.install_index(app)
    assert threading.active_count() == 1, "threads do not survive the fork"
    return app
"""


class Server:
    """A Gunicorn process and its log."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.pid_requests = 0  # successful requests to /test/pid

    def get(self, path: str, **headers: str) -> httpx2.Response:
        # A new client loads the CA certificates unless `verify` is off, which takes longer than
        # the request.
        return httpx2.get(self.url + path, headers=headers, timeout=10, verify=False)

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait for a condition; fail with the log when the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(f"the condition was not met in {seconds:g} s; log:\n{self.log.read_text()}")

    def is_up_or_has_exited(self) -> bool:
        return self.process.poll() is not None or self.get("/health/live").is_success

    def workers(self) -> set[int]:
        """The process ids of the workers that respond."""
        return {self.pid() for _ in range(16)}

    def pid(self) -> int:
        pid: int = self.get("/test/pid").json()
        self.pid_requests += 1
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
    """Send requests continuously over keep-alive connections; count statuses and lost requests."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def send_requests() -> None:
        with httpx2.Client(base_url=server.url, timeout=10, verify=False) as client:
            while not stop.is_set():
                try:
                    outcomes[str(client.get(path).status_code)] += 1
                except httpx2.TransportError as error:
                    outcomes[f"lost: {error!r}"] += 1

    threads = [threading.Thread(target=send_requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
