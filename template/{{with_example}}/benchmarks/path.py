"""What a signed-in user's request costs, without a server: CPU time, to that of ``best.py``.

``compare.py path`` runs this in a process of its own, whose environment has Postgres and Redis. It
starts a process for each app, and tells them in turn to serve a batch of requests, 20 at a time, so
that a busy machine slows all of them. (In one process, the service would slow ``best.py``, too.)
The requests per second that ``compare.py`` also prints vary more.
"""

import asyncio
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import best
import httpx2
import uvloop
from compare import cached_caller
from fastapi import FastAPI
from sqlalchemy.engine import make_url

from app.main import create_app
from app.settings import get_settings
from tests.actors import seed, sign_in

CALLS = ("one item", "page of 20", "new item")
MARK = "microseconds: "
REQUESTS = 100  # of a batch
CONCURRENT = 20


@dataclass(frozen=True)
class Call:
    """A request that is repeated."""

    app: FastAPI
    headers: Mapping[str, str]
    method: str = "GET"
    path: str = best.ITEMS
    query: bytes = b""
    body: bytes = b""

    async def send(self) -> bytes:
        """The body of the response."""
        answer = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        async def send(message: Any) -> None:
            answer.append(message)

        await self.app(self._scope(), receive, send)
        assert answer[0]["status"] in (200, 201), answer
        return b"".join(message.get("body", b"") for message in answer[1:])

    def _scope(self) -> dict[str, Any]:
        headers = {"host": "127.0.0.1", **self.headers}
        if self.body:
            headers |= {"content-type": "application/json", "content-length": str(len(self.body))}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": [(name.lower().encode(), v.encode()) for name, v in headers.items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }


async def cpu_time(call: Call) -> float:
    """Microseconds of this thread's CPU time for one request."""

    async def some() -> None:
        for _ in range(REQUESTS // CONCURRENT):
            await call.send()

    began = time.thread_time()
    await asyncio.gather(*(some() for _ in range(CONCURRENT)))
    return (time.thread_time() - began) / REQUESTS * 1e6


async def calls_of(app: FastAPI, headers: Mapping[str, str]) -> dict[str, Call]:
    new = Call(app, headers, "POST", body=b'{"name": "Anchor"}')
    created = [json.loads(await new.send()) for _ in range(30)]
    one = Call(app, headers, path=f"{best.ITEMS}/{created[-1]['id']}")
    return dict(zip(CALLS, (one, Call(app, headers, query=b"limit=20"), new), strict=True))


@asynccontextmanager
async def running(name: str) -> AsyncIterator[dict[str, Call]]:
    """The calls of an app: ``best``, ``ours`` or ``cached``."""
    settings = get_settings()
    database = settings.database_url.get_secret_value()
    app = best.create_app() if name == "best" else create_app(settings)
    async with app.router.lifespan_context(app):
        if name == "best":
            connection = await asyncpg.connect(re.sub(r"\+\w+", "", database))
            token = await best.prepare(connection, settings.secret_key.get_secret_value())
            await connection.close()
            headers = {"Authorization": f"Bearer {token}"}
        else:
            await seed(make_url(database))
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                headers = await sign_in(client, f"{name}@example.com")
        yield await calls_of(app, headers)


async def serve(name: str) -> None:
    """Serve a batch for each line of stdin, and print its microseconds."""
    async with running(name) as calls:
        gc.collect()
        gc.freeze()  # as the service's workers do
        while what := (await asyncio.to_thread(sys.stdin.readline)).strip():
            print(f"{MARK}{await cpu_time(calls[what])}", flush=True)


class App:
    """A process with an app."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        command = [sys.executable, __file__, name]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def batch(self, what: str) -> float:
        """Microseconds of CPU time for one request."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:  # the others are the log's
            if line.startswith(MARK):
                return float(line.removeprefix(MARK))
        raise SystemExit("The app has ended.")

    def stop(self) -> None:
        self._process.communicate()


def measure(rounds: int) -> None:
    """Measure all in turn, and print it."""
    apps = {"best": App("best", os.environ), "": App("ours", os.environ)}
    if variables := cached_caller():
        apps[", cached caller"] = App("cached", os.environ | variables)
    for what in CALLS:
        for app in apps.values():
            app.batch(what)
        took = [{name: app.batch(what) for name, app in apps.items()} for _ in range(rounds)]
        for name in [each for each in apps if each != "best"]:
            low, middle, high = statistics.quantiles([t["best"] / t[name] for t in took], n=4)
            least = {each: min(t[each] for t in took) for each in ("best", name)}
            print(
                f"{f'path, in process: {what}{name}':<44} speed x{middle:.2f}"
                f" (quartiles {low:.2f} to {high:.2f})"
                f"  ({least[name]:.0f} to {least['best']:.0f} microseconds)"
            )
    for app in apps.values():
        app.stop()


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        measure(int(sys.argv[1]))
    else:
        uvloop.run(serve(sys.argv[1]))
