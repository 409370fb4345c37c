"""What the production features cost, measured on this machine, now.

    uv run python benchmarks/compare.py [plain read path jobs start] [--rounds 7] [--seconds 3]

Each server is one process, and they are loaded in turn, so that a busy machine slows all of them.
Compare the ratios, not the figures; differences below 10 % are noise. Nothing is asserted.

- plain: one route that returns a small model. Bare FastAPI has this one route; the service has
  fifty, and logs, traces (one request in ten), metrics, ids, headers and limits.
- read: one row of Postgres, by ``ReadSession`` and by a raw asyncpg pool in the same app.
- path: what a signed-in user pays, on the example's routes: one item, a page of twenty, and a new
  item; in process, and through a server. Against ``best.py``, which is FastAPI and asyncpg by hand
  with nothing around them.
- jobs: no-ops that a worker drains per second, and the time from commit to start, against two
  statements by hand for each job.
- start: time from `app serve` with two workers to the first response, and its memory, installed as
  in the image; also the time to import FastAPI alone, which every service needs.

The routes of plain and read are outside /api/, whose rate limit adds a round trip to Redis.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import asyncpg
from dotenv import dotenv_values
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, select
from sqlalchemy.engine import URL, make_url

ROOT = Path(__file__).parent.parent
CONNECTIONS = 32
MEASUREMENTS = ("plain", "read", "path", "jobs", "start")
ROWS = Table(
    "benchmark_rows", MetaData(), Column("id", Integer, primary_key=True), Column("name", String)
)
PLAIN, READ, RAW = (f"/bench/v1/things/{kind}/42" for kind in ("plain", "read", "raw"))


Result = tuple[float, float]  # requests per second, and microseconds of CPU time for each


class Thing(BaseModel):
    """The response of every route."""

    id: int
    name: str


async def plain(thing_id: int) -> Thing:
    return Thing(id=thing_id, name="thing")


def bare() -> FastAPI:
    """FastAPI, and nothing else."""
    app = FastAPI()
    app.add_api_route("/bench/v1/things/plain/{thing_id}", plain)
    return app


def service() -> FastAPI:
    """This service, with fifty more routes."""
    from app.main import create_app
    from app.platform.http import routing

    app = create_app()
    for name in (*(f"others{n}" for n in range(9)), "things"):
        app.include_router(_five_routes(name), prefix="/bench/v1")
    routing.install_index(app)
    parts = app.router.lifespan_context

    @asynccontextmanager
    async def with_raw_pool(app: FastAPI) -> AsyncIterator[Any]:
        url = app.state.settings.database_url.get_secret_value().replace("+asyncpg", "")
        pool = asyncpg.create_pool(url, min_size=10, max_size=10)
        async with parts(app) as state, pool as app.state.raw:
            yield state  # the server reads the settings from it

    app.router.lifespan_context = with_raw_pool
    return app


def _five_routes(name: str) -> APIRouter:
    from app.platform.data.database import ReadSessionDep

    by_id = select(ROWS.c.id, ROWS.c.name).where(ROWS.c.id == bindparam("id"))

    async def read(reader: ReadSessionDep, thing_id: int) -> Thing:
        row = await reader.first(by_id, id=thing_id)
        assert row
        return Thing(id=row.id, name=row.name)

    async def pool(request: Request) -> Any:
        return request.app.state.raw

    async def raw(pool: Annotated[Any, Depends(pool)], thing_id: int) -> Thing:
        row = await pool.fetchrow("SELECT id, name FROM benchmark_rows WHERE id = $1", thing_id)
        return Thing(id=row["id"], name=row["name"])

    async def change(thing_id: int, thing: Thing) -> Thing:
        return thing

    router = APIRouter(prefix=f"/{name}")
    router.add_api_route("/{thing_id}", plain)
    router.add_api_route("/{thing_id}", change, methods=["PUT"])
    router.add_api_route("/plain/{thing_id}", plain)
    router.add_api_route("/read/{thing_id}", read)
    router.add_api_route("/raw/{thing_id}", raw)
    return router


def in_process(name: str, requests: int = 3000) -> float:
    """Return the CPU time of one request, in microseconds, without a server around the app."""
    import uvloop

    return uvloop.run(_in_process({"bare": bare, "service": service}[name](), requests))


async def _in_process(app: FastAPI, requests: int) -> float:
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.add(message.get("status", 200))

    async with app.router.lifespan_context(app):
        for _ in range(200):
            await app(_scope(), receive, send)
        best = min([await _timed(app, receive, send, 100) for _ in range(requests // 100)])
    assert statuses == {200}, statuses
    return best


async def _timed(app: FastAPI, receive: Any, send: Any, requests: int) -> float:
    started = time.thread_time()
    for _ in range(requests):
        await app(_scope(), receive, send)
    return (time.thread_time() - started) / requests * 1e6


def _scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": PLAIN,
        "raw_path": PLAIN.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


class Server:
    """A server process with all its children."""

    def __init__(self, command: list[str], environment: dict[str, str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=None
        )

    def wait(self, path: str) -> float:
        """Return the seconds until the first response."""
        started = time.monotonic()
        while time.monotonic() - started < 60:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url + path, timeout=2).read()
                return time.monotonic() - started
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise SystemExit(f"{' '.join(map(str, self.process.args))} does not respond")  # type: ignore[arg-type]

    def pids(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *(map(int, path.read_text().split()) if path.exists() else ())]

    def cpu_seconds(self) -> float:
        """CPU time used so far; 0 where there is no /proc."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Memory in MB, what is shared counted once; 0 where there is no /proc."""
        kilobytes = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                kilobytes += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
        return kilobytes / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)


@dataclass
class Load:
    """Requests of one kind, and the server that gets them."""

    server: Server
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    method: str = "POST"  # of a body

    def run(self, seconds: float) -> tuple[float, float]:
        """Requests per second, and microseconds of CPU time for each."""
        before = self.server.cpu_seconds()
        requests, took = (_wrk if shutil.which("wrk") else _load_slowly)(self, seconds)
        return requests / took, (self.server.cpu_seconds() - before) / requests * 1e6


def _wrk(load: Load, seconds: float) -> tuple[int, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if load.body:
            script.write(f'wrk.method = "{load.method}"\nwrk.body = [[{load.body}]]\n')
            script.flush()
        headers = [
            part for name, value in load.headers.items() for part in ("-H", f"{name}: {value}")
        ]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", script.name, *headers]
        command.append(load.server.url + load.path)
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in text, text
    requests, took, unit = re.search(r"(\d+) requests in ([\d.]+)(m?s)", text).groups()  # type: ignore[union-attr]
    return int(requests), float(took) / (1000 if unit == "ms" else 1)


def _load_slowly(load: Load, seconds: float) -> tuple[int, float]:
    """Ask without wrk: costs as much as the server, so that ratios look better than they are."""
    host, _, port = load.server.url.removeprefix("http://").partition(":")
    head = [f"{load.method if load.body else 'GET'} {load.path} HTTP/1.1", f"Host: {host}"]
    head += [f"{name}: {value}" for name, value in load.headers.items()]
    head += [f"Content-Length: {len(load.body)}"] if load.body else []
    request = "\r\n".join([*head, "", load.body]).encode()
    end, responses = time.monotonic() + seconds, 0

    async def load_one() -> None:
        nonlocal responses
        reader, writer = await asyncio.open_connection(host, port)
        while time.monotonic() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 20"), head
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
            responses += 1
        writer.close()

    async def load_all() -> None:
        await asyncio.gather(*(load_one() for _ in range(CONNECTIONS)))

    asyncio.run(load_all())
    return responses, seconds


@contextmanager
def collector() -> Iterator[str]:
    """Take the spans, as a collector would."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Postgres with a table, Valkey, a collector, and the variables that name them."""
    from app.platform.dev.servers import services

    compile_all()
    with services() as urls, collector() as endpoint:
        asyncio.run(_fill(urls["DATABASE_URL"].replace("+asyncpg", "")))
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        variables = {**inherited, **urls, **production(endpoint)}
        migrate = [sys.executable, "-m", "app", "migrate"]
        subprocess.run(migrate, cwd=ROOT, env=variables, check=True, stdout=subprocess.DEVNULL)
        yield variables


def production(endpoint: str) -> dict[str, str]:
    """The variables of production; a feature adds those without which it does not start, in *.env.

    ``endpoint``: of a collector of traces.
    """
    variables = {
        "ENVIRONMENT": "production",
        "SECRET_KEY": secrets.token_hex(32),
        "DRAIN_SECONDS": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "RATE_LIMIT": "100000/second",  # counted, and never reached
    }
    for file in sorted((ROOT / "benchmarks").glob("*.env")):
        variables |= {name: value or "" for name, value in dotenv_values(file).items()}
    return variables


def compile_all() -> None:
    """Compile every module, as the image does: a first start would pay for it."""
    folders = (str(ROOT / "src"), sysconfig.get_path("purelib"))
    # What fails are files that nobody imports: templates, and tests of other versions.
    subprocess.run([sys.executable, "-m", "compileall", "-qq", *folders], check=False)


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "DROP TABLE IF EXISTS benchmark_rows;"
        "CREATE TABLE benchmark_rows (id int PRIMARY KEY, name text);"
        "INSERT INTO benchmark_rows SELECT n, 'row ' || n FROM generate_series(1, 1000) n;"
        "ANALYZE benchmark_rows"
    )
    await connection.close()


@contextmanager
def serving(variables: dict[str, str], name: str, path: str = PLAIN) -> Iterator[Server]:
    """Serve an app with one process: ``service``, ``compare:bare`` or ``best:create_app``."""
    port = free_port()
    variables = variables | {"PORT": str(port), "WEB_CONCURRENCY": "1"}
    command = ["-m", "gunicorn", "compare:service()"]
    if ":" in name:
        command = ["-m", "uvicorn", name, "--factory", "--no-access-log"]
        command += ["--log-level", "warning", "--port", str(port)]
    server = Server([sys.executable, *command], variables, port)
    try:
        server.wait(path)
        yield server
    finally:
        server.stop()


def measure(loads: dict[str, Load], rounds: int, seconds: float) -> dict[str, list[Result]]:
    """Ask all in turn, after a second of each that is not counted."""
    found: dict[str, list[Result]] = {name: [] for name in loads}
    for load in loads.values():
        load.run(1)
    for n in range(rounds):
        for name in sorted(loads, reverse=bool(n % 2)):
            found[name].append(loads[name].run(seconds))
    return found


def measure_features(
    variables: dict[str, str], chosen: set[str], rounds: int, seconds: float
) -> None:
    """Measure plain and read."""
    with serving(variables, "compare:bare") as bare, serving(variables, "service") as ours:
        loads = {
            "plain bare": Load(bare, PLAIN),
            "plain service": Load(ours, PLAIN),
            "read asyncpg": Load(ours, RAW),
            "read service": Load(ours, READ),
        }
        found = measure({n: x for n, x in loads.items() if n.split()[0] in chosen}, rounds, seconds)
    if "plain" in chosen:
        report("plain: service to bare FastAPI", found["plain service"], found["plain bare"])
    if "read" in chosen:
        report("read: ReadSession to raw asyncpg", found["read service"], found["read asyncpg"])


def measure_path(variables: dict[str, str], rounds: int, seconds: float) -> None:
    """Measure what a signed-in user pays."""
    if not Path(__file__).with_name("best.py").exists():
        print("path: needs the example feature, which this service does not have")
        return
    script = [sys.executable, str(Path(__file__).with_name("path.py")), str(4 * rounds)]
    sys.stdout.flush()
    done = subprocess.run(script, cwd=ROOT, env=variables, check=True, stdout=subprocess.PIPE)
    lines = done.stdout.decode().splitlines()
    print("\n".join(line for line in lines if line.startswith("path, in process")))
    path = importlib.import_module("best").ITEMS
    url = make_url(variables["DATABASE_URL"])
    loads: dict[str, Load] = {}
    with (
        serving(variables, "service") as ours,
        serving(variables | cached_caller(), "service") as cached,
        serving(variables, "best:create_app", "/openapi.json") as best,
    ):
        headers = asyncio.run(_sign_in(url, ours.url, variables["SECRET_KEY"]))
        servers = {"ours": ours, "best": best} | ({"cached": cached} if cached_caller() else {})
        for name, server in servers.items():
            of_caller = headers["best" if name == "best" else "ours"]
            create = Load(server, path, of_caller, '{"name": "Anchor"}')
            created = [_send(create) for _ in range(30)]
            loads |= {
                f"get {name}": Load(server, f"{path}/{created[-1]['id']}", of_caller),
                f"page {name}": Load(server, f"{path}?limit=20", of_caller),
                f"post {name}": create,
            }
        loads.pop("post cached", None)  # only reads use the cache
        found = measure(loads, rounds, seconds)
    for kind, what in {"get": "one item", "page": "page of 20", "post": "new item"}.items():
        report(f"path: {what}, to best.py", found[f"{kind} ours"], found[f"{kind} best"])
        if f"{kind} cached" in found:
            report(f"path: {what}, cached caller", found[f"{kind} cached"], found[f"{kind} best"])


def cached_caller() -> dict[str, str]:
    """The variables that save reads the lookup of their caller, if this service has callers."""
    if not Path(__file__).with_name("cached_caller.py").exists():
        return {}
    environment: dict[str, str] = importlib.import_module("cached_caller").ENVIRONMENT
    return environment


async def _sign_in(url: URL, server: str, key: str) -> dict[str, dict[str, str]]:
    """The headers of a signed-in user, of this service and of ``best.py``."""
    sys.path.insert(0, str(ROOT))  # for `tests`
    import httpx2

    from tests.actors import seed, sign_in

    await seed(url)
    async with httpx2.AsyncClient(base_url=server, timeout=30) as client:
        ours = await sign_in(client, "ada@example.com")
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(False))
    best = importlib.import_module("best")  # beside this file
    token = await best.prepare(connection, key)
    await connection.close()
    json_body = {"Content-Type": "application/json"}
    return {"ours": ours | json_body, "best": {"Authorization": f"Bearer {token}"} | json_body}


def _send(load: Load) -> Any:
    request = urllib.request.Request(
        load.server.url + load.path, load.body.encode(), dict(load.headers), method=load.method
    )
    return json.load(urllib.request.urlopen(request, timeout=30))


def report(name: str, ours: list[Result], base: list[Result]) -> None:
    """Print the median of the rounds' ratios, and their spread."""
    rates = sorted(a[0] / b[0] for a, b in zip(ours, base, strict=True))
    cpu = statistics.median(a[1] / b[1] for a, b in zip(ours, base, strict=True) if b[1])
    each = statistics.median(a[0] for a in ours), statistics.median(b[0] for b in base)
    print(
        f"{name:<34} throughput x{statistics.median(rates):.2f} ({rates[0]:.2f} to {rates[-1]:.2f})"
        f"  CPU x{cpu:.2f}"
        f"  ({each[0]:.0f} to {each[1]:.0f} requests/s)"
    )


def measure_in_process(variables: dict[str, str], rounds: int) -> None:
    """Measure each app in a process of its own, in turn."""
    found: dict[str, list[float]] = {"bare": [], "service": []}
    for _ in range(rounds):
        for name, times in found.items():
            command = [sys.executable, __file__, "--in-process", name]
            done = subprocess.run(
                command, cwd=ROOT, env=variables, check=True, stdout=subprocess.PIPE
            )
            times.append(json.loads(done.stdout.splitlines()[-1]))
    ratio = statistics.median(s / b for b, s in zip(found["bare"], found["service"], strict=True))
    best = {name: min(times) for name, times in found.items()}
    print(
        f"{'plain, in process':<34} CPU x{ratio:.2f}"
        f"  ({best['service']:.0f} to {best['bare']:.0f} microseconds)"
    )


def measure_jobs(variables: dict[str, str], rounds: int) -> None:
    """Measure the queue, in a process of its own."""
    script = Path(__file__).with_name("jobs.py")
    if not script.exists():
        print("jobs: needs a queue with a worker, which this service does not have")
        return
    sys.stdout.flush()
    subprocess.run([sys.executable, str(script), str(rounds)], cwd=ROOT, env=variables, check=True)


@contextmanager
def production_python(variables: dict[str, str]) -> Iterator[str]:
    """The interpreter of a virtual environment as the image has it, without the dev group."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["uv", "sync", "--frozen", "--no-dev", "--compile-bytecode", "--quiet"]
        environment = variables | {"UV_PROJECT_ENVIRONMENT": folder}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        yield str(Path(folder) / "bin" / "python")


def import_seconds(python: str, variables: dict[str, str]) -> tuple[float, float]:
    """Seconds of time, and of CPU time, that a new process takes to import FastAPI."""
    started, before = time.monotonic(), os.times()
    subprocess.run([python, "-c", "import fastapi"], env=variables, check=True)
    took, after = time.monotonic() - started, os.times()
    system = after.children_system - before.children_system
    return took, after.children_user - before.children_user + system


def measure_start(variables: dict[str, str], rounds: int) -> None:
    """Start the service as in production, with two workers."""
    took, memory, imported, ratios = [], [], [], []
    with production_python(variables) as python:
        for _ in range(rounds):
            alone, cpu_alone = import_seconds(python, variables)
            port = free_port()
            settings = variables | {"PORT": str(port), "WEB_CONCURRENCY": "2"}
            server = Server([python, "-m", "app", "serve"], settings, port)
            seconds = server.wait("/health/live")
            ratios.append((seconds / alone, server.cpu_seconds() / cpu_alone))
            for _ in range(40):  # so that each worker has had the probe of every deploy target
                server.wait("/health/ready")
            time.sleep(1)
            memory.append(server.memory())
            server.stop()
            took.append(seconds)
            imported.append(alone)
    rates, cpu = (sorted(of) for of in zip(*ratios, strict=True))
    print(
        f"{'start, two workers':<34} first response {statistics.median(took):.2f} s"
        f"  memory {statistics.median(memory):.0f} MB ({min(memory):.0f} to {max(memory):.0f})"
        f"  (import fastapi: {statistics.median(imported):.2f} s, first response"
        f" x{statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}),"
        f" CPU x{statistics.median(cpu):.1f} ({cpu[0]:.1f} to {cpu[-1]:.1f}))"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", nargs="*", metavar="|".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--in-process", choices=["bare", "service"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        sys.stdout.flush()
        result = in_process(options.in_process)
        sys.stdout.write(f"\n{result}\n")
        return
    print(f"{options.rounds} rounds of {options.seconds:g} s, {CONNECTIONS} connections, medians")
    if not shutil.which("wrk"):
        print("wrk is not installed: a slower loader takes its place, and flatters the ratios")
    chosen = set(options.measurements or MEASUREMENTS)
    if unknown := chosen.difference(MEASUREMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with environment() as variables:
        if "plain" in chosen:
            measure_in_process(variables, min(options.rounds, 5))
        if chosen & {"plain", "read"}:
            measure_features(variables, chosen, options.rounds, options.seconds)
        if "path" in chosen:
            measure_path(variables, options.rounds, options.seconds)
        if "jobs" in chosen:
            measure_jobs(variables, options.rounds)
        if "start" in chosen:
            measure_start(variables, min(options.rounds, 5))


if __name__ == "__main__":
    main()
