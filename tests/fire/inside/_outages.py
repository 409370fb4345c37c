"""Servers and proxies with injectable faults, and a load generator."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from app.platform.dev import guard
from app.platform.dev.plan import ServerType
from tests.conftest import ROOT
from tests.system.serving import Server, free_port

TIMEOUT = 60.0  # seconds, for a busy machine
# Maximum seconds of any response: the timeouts of the pool, a statement and closing its connection
# add up to 18 by default, and the machine may stall.
MAX_SECONDS = 29.0

# The service's app with additional routes for these tests.
APP = """
from app import main
from app.platform.http import routing
from app.platform.data.database import SessionDep
from app.items import service
from app.items.jobs import export_items
from app.items.schemas import ItemCreate
from app.platform.jobs import Jobs
from app.platform.data.redis import RedisDep
from sqlalchemy import text

def create_app():
    app = main.create_app()

    async def both(name: str, session: SessionDep, jobs: Jobs) -> str:
        await service.create_item(session, "fire", ItemCreate(name=name))
        await jobs.enqueue(export_items, owner=name)
        return name

    async def sleep(seconds: float, session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    async def lock(name: str, session: SessionDep) -> None:
        change = "UPDATE items SET description = 'changed' WHERE name = :name"
        await session.execute(text(change), {"name": name})

    async def read(session: SessionDep) -> int:
        return (await session.execute(text("SELECT count(*) FROM items"))).scalar_one()

    async def cache(redis: RedisDep) -> int:
        return await redis.incr("fire:cache")

    async def nothing() -> None:
        pass

    for route in (both, sleep, lock, read, cache, nothing):
        app.add_api_route(f"/api/v1/fire/{route.__name__}", route, methods=["POST"])
    routing.install_index(app)
    return app
"""


class ServerProcess:
    """A server on its own port, which keeps its data when it is restarted."""

    def __init__(self, kind: ServerType, *options: str, durable: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.port = free_port()
        self._kind, self._options, self._durable = kind, options, durable
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self.url = ""

    def start(self) -> None:
        """Start the server; after it was killed, on the same port and with the same data."""
        end = time.monotonic() + TIMEOUT
        while not self._started():
            assert time.monotonic() < end, f"{self._kind.name} does not start"
            self.kill()  # a killed predecessor may still be exiting

    def _started(self) -> bool:
        data = self.folder if self._durable else None
        plan = self._kind.plan(self.port, self.folder, data)
        self.url = plan.url
        command = guard.command([*plan.argv, *self._options], before=plan.before, stop=plan.stop)
        self._guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
        )
        assert self._guard.stdout
        self._pid = int(self._guard.stdout.readline() or 0)
        while self._guard.poll() is None:
            if plan.ready(self._pid):
                return True
            time.sleep(0.02)
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its child processes."""
        if not self._pid:
            return
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        with suppress(OSError):
            for pid in [str(self._pid), *children.read_text().split()]:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)

    @property
    def is_running(self) -> bool:
        return self._pid != 0

    def kill(self) -> None:
        """Send SIGKILL, which has the effect of a power failure."""
        self.signal(signal.SIGKILL)
        self._wait()

    def shut_down(self) -> None:
        """Shut down and disconnect all clients."""
        os.kill(self._pid, signal.SIGINT)
        self._wait()

    def _wait(self) -> None:
        self._pid = 0  # the id may be reused
        if self._guard:
            assert self._guard.stdin
            assert self._guard.stdout
            self._guard.stdin.close()
            self._guard.wait(TIMEOUT)
            self._guard.stdout.close()


@contextmanager
def run_server(kind: ServerType, *options: str, durable: bool = True) -> Iterator[ServerProcess]:
    """A running server for one test."""
    server = ServerProcess(kind, *options, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        subprocess.run(["rm", "-rf", str(server.folder)], check=False)


class Proxy:
    """A TCP proxy that can delay, break, discard and redirect connections."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.delay = 0.0  # seconds, for data from the server
        self._blackholed: set[asyncio.Task[None]] = set()
        self._flows: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.start()

    def start(self) -> None:
        """Accept connections."""
        self._do(self._start())

    def stop(self) -> None:
        """Break open connections and refuse new ones."""
        self._do(self._stop_listening())

    def blackhole(self) -> None:
        """Discard all data on open connections, as if the server's machine were gone."""
        self._do(self._blackhole())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    async def _blackhole(self) -> None:
        self._blackholed |= self._flows

    async def _start(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def _stop_listening(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for flow in self._flows:
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = asyncio.current_task()
        assert flow
        self._flows.add(flow)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                copies = (
                    self._copy(reader, server_writer, flow),
                    self._copy(server_reader, writer, flow, True),
                )
                await asyncio.gather(*copies)
            finally:
                server_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._flows.discard(flow)
            self._blackholed.discard(flow)

    async def _copy(
        self,
        source: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        flow: "asyncio.Task[None]",
        from_server: bool = False,
    ) -> None:
        while data := await source.read(65536):
            if flow in self._blackholed:
                continue
            if from_server and self.delay:
                await asyncio.sleep(self.delay)
            to.write(data)
        raise ConnectionResetError  # closes the other direction


@contextmanager
def run_proxy(to: int) -> Iterator[Proxy]:
    """A proxy to a local port."""
    proxy = Proxy(to)
    try:
        yield proxy
    finally:
        proxy.close()


def wait_until(
    condition: Callable[[], bool],
    message: Callable[[], str] = lambda: "timed out",
    seconds: float = TIMEOUT,
) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message()
        time.sleep(0.05)


@contextmanager
def running_service(environment: dict[str, str], folder: Path, **changes: str) -> Iterator[Server]:
    """Gunicorn with two workers and the additional routes."""
    (folder / "service_under_fire.py").write_text(APP)
    port, log = free_port(), folder / "log"
    own = {"PORT": str(port), "WEB_CONCURRENCY": "2", "PYTHONPATH": str(folder)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "service_under_fire:create_app()"],
            cwd=ROOT, env=environment | own | changes, text=True, stdout=output, stderr=output,
        )  # fmt: skip
    server = Server(process, port, log)
    try:
        server.until(server.is_up_or_has_exited, TIMEOUT)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Result:
    """Outcome of one request."""

    status: int
    code: str
    seconds: float
    at: float
    path: str
    name: str


class Load:
    """A load generator with several clients, each in a thread."""

    def __init__(self, server: Server, paths: tuple[str, ...], clients: int) -> None:
        self.results: list[Result] = []
        self.invalid: list[str] = []
        self._server, self._paths = server, paths
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def _run(self, number: int) -> None:
        count = 0
        with httpx2.Client(base_url=self._server.url, timeout=TIMEOUT) as client:
            while not self._stop.is_set():
                count += 1
                path = self._paths[count % len(self._paths)]
                self._send(client, path, f"{number}-{count}")
                time.sleep(0.01)

    def _send(self, client: httpx2.Client, path: str, name: str) -> None:
        start = time.monotonic()
        try:
            response = client.post(path, params={"name": name})
        except httpx2.TransportError as error:
            self.invalid.append(repr(error))
            return
        seconds = time.monotonic() - start
        code = "" if response.is_success else str(response.json()["code"])
        if not (response.is_success or is_retryable(response)):
            self.invalid.append(f"{response.status_code} {response.text}")
        self.results.append(Result(response.status_code, code, seconds, start, path, name))

    def wait_for_recovery(self) -> float:
        """Wait until 20 consecutive requests succeed; return the seconds that took."""
        start = time.monotonic()

        def recovered() -> bool:
            last = [result for result in self.results[-20:] if result.at > start]
            return len(last) == 20 and all(result.status == 200 for result in last)

        wait_until(recovered, lambda: f"no recovery: {self.results[-5:]}")
        return round(time.monotonic() - start, 1)

    def wait_for_failure(self) -> None:
        """Wait until a recent request has failed."""
        wait_until(lambda: any(result.status != 200 for result in self.results[-20:]))

    @property
    def longest(self) -> float:
        return round(max(result.seconds for result in self.results), 1)

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of this load for the tables."""
        answered = {f"answered {key}": count for key, count in sorted(self.outcomes.items())}
        longest = {"longest answer, s": self.longest}
        return {"requests": len(self.results), **answered, "lost": len(self.invalid), **longest}

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(f"{result.status} {result.code}".strip() for result in self.results)


def is_retryable(response: httpx2.Response) -> bool:
    """Whether a response is a 503 problem document with a Retry-After header."""
    return (
        response.status_code == 503
        and response.headers["Content-Type"] == "application/problem+json"
        and int(response.headers["Retry-After"]) >= 1
    )


@contextmanager
def run_load(server: Server, *paths: str, clients: int = 6) -> Iterator[Load]:
    """Requests from ``clients`` threads over persistent connections."""
    running = Load(server, paths, clients)
    for thread in running._threads:
        thread.start()
    try:
        yield running
    finally:
        running._stop.set()
        for thread in running._threads:
            thread.join()


def readiness(server: Server) -> str:
    """Status reported by /health/ready."""
    return str(server.get("/health/ready").json()["status"])
