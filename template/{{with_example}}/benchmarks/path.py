"""What a signed-in user's request costs, without a server: CPU time, to that of ``best.py``.

``compare.py path`` runs this in a process of its own, whose environment has Postgres and Redis. All
apps run in this process and are called in turn, 20 requests at a time, so that a busy machine slows
all of them. The requests per second that ``compare.py`` also prints vary more.
"""

import asyncio
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
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
from app.settings import Settings
from tests.actors import seed, sign_in

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
    return {
        "one item": Call(app, headers, path=f"{best.ITEMS}/{created[-1]['id']}"),
        "page of 20": Call(app, headers, query=b"limit=20"),
        "new item": new,
    }


async def measure(rounds: int) -> None:
    """Measure all in turn, and print it."""
    settings = Settings()  # type: ignore[call-arg]  # from the environment
    apps = {"": create_app(settings)}
    if variables := cached_caller():
        values: Any = {name.lower(): value for name, value in variables.items()}
        apps[", cached caller"] = create_app(Settings(**values))
    by_hand = best.create_app()
    database = settings.database_url.get_secret_value()
    connection = await asyncpg.connect(re.sub(r"\+\w+", "", database))
    token = await best.prepare(connection, settings.secret_key.get_secret_value())
    await connection.close()
    await seed(make_url(database))
    async with AsyncExitStack() as stack:
        for app in (*apps.values(), by_hand):
            await stack.enter_async_context(app.router.lifespan_context(app))
        base = await calls_of(by_hand, {"Authorization": f"Bearer {token}"})
        transport = httpx2.ASGITransport(apps[""])
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            headers = await sign_in(client, "grace@example.com")
        ours = {name: await calls_of(app, headers) for name, app in apps.items()}
        gc.collect()
        gc.freeze()  # as the service's workers do, or collections would go through both apps
        for what in base:
            calls = {"base": base[what]} | {name: each[what] for name, each in ours.items()}
            await report(calls, what, rounds)


async def report(calls: dict[str, Call], what: str, rounds: int) -> None:
    took: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        await cpu_time(call)
    for _ in range(rounds):
        for name, call in calls.items():
            took[name].append(await cpu_time(call))
    base = took.pop("base")
    for name, times in took.items():
        ratios = [b / a for a, b in zip(times, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{f'path, in process: {what}{name}':<44} speed x{middle:.2f}"
            f" (quartiles {low:.2f} to {high:.2f})  ({min(times):.0f} to {min(base):.0f}"
            " microseconds)"
        )


if __name__ == "__main__":
    uvloop.run(measure(int(sys.argv[1])))
