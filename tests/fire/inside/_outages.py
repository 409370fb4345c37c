"""Servers that can be killed, hung and restarted, ways to them that can break, and the load."""

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

PATIENCE = 60.0  # seconds; the machine may be busy
# Seconds that no answer may take: the time-outs of the pool, of a statement and of its connection's
# end are 18 by default, and the machine may stall.
BOUND = 29.0

# Routes that only these tests need, in an app that is otherwise the real one.
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


class Machine:
    """A server on a port of its own, whose data outlive it."""

    def __init__(self, kind: ServerType, *options: str, durable: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.port = free_port()
        self._kind, self._options, self._durable = kind, options, durable
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self.url = ""

    def start(self) -> None:
        """Start it, again if it was killed: on the same port, with the same data."""
        end = time.monotonic() + PATIENCE
        while not self._started():
            assert time.monotonic() < end, f"{self._kind.name} does not start"
            self.kill()  # what was killed before may be going still

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
        """Send a signal to the server and all of its processes."""
        if not self._pid:
            return
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        with suppress(OSError):
            for pid in [str(self._pid), *children.read_text().split()]:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)

    @property
    def runs(self) -> bool:
        return self._pid != 0

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self._wait()

    def shut_down(self) -> None:
        """Ask it to end, and who is connected to leave."""
        os.kill(self._pid, signal.SIGINT)
        self._wait()

    def _wait(self) -> None:
        self._pid = 0  # may be another's soon
        if self._guard:
            assert self._guard.stdin
            assert self._guard.stdout
            self._guard.stdin.close()
            self._guard.wait(PATIENCE)
            self._guard.stdout.close()


@contextmanager
def machine(kind: ServerType, *options: str, durable: bool = True) -> Iterator[Machine]:
    """Run a server that a test may do anything to."""
    server = Machine(kind, *options, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        subprocess.run(["rm", "-rf", str(server.folder)], check=False)


class Way:
    """A way to a server: it can be slow, be cut, fall silent, and lead elsewhere from now on."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.delay = 0.0  # seconds, on the way back
        self._silent: set[asyncio.Task[None]] = set()
        self._flows: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.mend()

    def mend(self) -> None:
        """Let clients through."""
        self._do(self._mend())

    def cut(self) -> None:
        """Break what is open, and let nobody through."""
        self._do(self._cut())

    def fall_silent(self) -> None:
        """Lose what is sent on the open connections, as when the other machine is gone."""
        self._do(self._fall_silent())

    def end(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _fall_silent(self) -> None:
        self._silent |= self._flows

    async def _mend(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def _cut(self) -> None:
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
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                copies = (self._copy(reader, back, flow), self._copy(there, writer, flow, True))
                await asyncio.gather(*copies)
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._flows.discard(flow)
            self._silent.discard(flow)

    async def _copy(
        self,
        source: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        flow: "asyncio.Task[None]",
        answers: bool = False,
    ) -> None:
        while data := await source.read(65536):
            if flow in self._silent:
                continue
            if answers and self.delay:
                await asyncio.sleep(self.delay)
            to.write(data)
        raise ConnectionResetError  # ends the other direction, too


@contextmanager
def way(to: int) -> Iterator[Way]:
    """Open a way to a port of this machine."""
    opened = Way(to)
    try:
        yield opened
    finally:
        opened.end()


def eventually(
    holds: Callable[[], bool],
    why: Callable[[], str] = lambda: "too late",
    seconds: float = PATIENCE,
) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


@contextmanager
def serving(environment: dict[str, str], folder: Path, **changes: str) -> Iterator[Server]:
    """Run Gunicorn with two workers and the routes above."""
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
        server.until(server.is_up_or_has_exited, PATIENCE)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Answer:
    """What became of one request; ``status`` is 0 where the connection broke."""

    status: int
    code: str
    seconds: float
    at: float
    path: str
    name: str


class Load:
    """Clients that write, and read, all the time."""

    def __init__(self, server: Server, paths: tuple[str, ...], clients: int) -> None:
        self.answers: list[Answer] = []
        self.bad: list[str] = []
        self._server, self._paths = server, paths
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number: int) -> None:
        count = 0
        with httpx2.Client(base_url=self._server.url, timeout=PATIENCE) as client:
            while not self._stop.is_set():
                count += 1
                path = self._paths[count % len(self._paths)]
                self._note(client, path, f"{number}-{count}")
                time.sleep(0.01)

    def _note(self, client: httpx2.Client, path: str, name: str) -> None:
        start = time.monotonic()
        try:
            answer = client.post(path, params={"name": name})
        except httpx2.TransportError as error:
            self.bad.append(repr(error))
            return
        seconds = time.monotonic() - start
        code = "" if answer.is_success else str(answer.json()["code"])
        if not (answer.is_success or is_clear(answer)):
            self.bad.append(f"{answer.status_code} {answer.text}")
        self.answers.append(Answer(answer.status_code, code, seconds, start, path, name))

    def recovers(self) -> float:
        """Wait until 20 requests in turn went well; return after how many seconds."""
        start = time.monotonic()

        def well() -> bool:
            last = [a for a in self.answers[-20:] if a.at > start]
            return len(last) == 20 and all(a.status == 200 for a in last)

        eventually(well, lambda: f"it does not recover: {self.answers[-5:]}")
        return round(time.monotonic() - start, 1)

    def fails(self) -> None:
        """Wait until a request is answered with an error."""
        eventually(lambda: any(a.status != 200 for a in self.answers[-20:]))

    @property
    def longest(self) -> float:
        return round(max(answer.seconds for answer in self.answers), 1)

    @property
    def figures(self) -> dict[str, Any]:
        """What a load is described by."""
        answered = {f"answered {what}": count for what, count in sorted(self.outcomes.items())}
        longest = {"longest answer, s": self.longest}
        return {"requests": len(self.answers), **answered, "lost": len(self.bad), **longest}

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(f"{answer.status} {answer.code}".strip() for answer in self.answers)


def is_clear(answer: httpx2.Response) -> bool:
    """Whether an answer says that it is not for now, and when to come back."""
    return (
        answer.status_code == 503
        and answer.headers["Content-Type"] == "application/problem+json"
        and int(answer.headers["Retry-After"]) >= 1
    )


@contextmanager
def load(server: Server, *paths: str, clients: int = 6) -> Iterator[Load]:
    """Send requests from ``clients`` threads, over connections that are kept."""
    running = Load(server, paths, clients)
    for thread in running._threads:
        thread.start()
    try:
        yield running
    finally:
        running._stop.set()
        for thread in running._threads:
            thread.join()


def ready(server: Server) -> str:
    """Return what readiness says."""
    return str(server.get("/health/ready").json()["status"])
