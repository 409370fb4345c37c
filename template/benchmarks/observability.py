"""What logs, metrics and traces cost a request, measured on this machine, now.

    uv run python benchmarks/observability.py [--rounds 30] [--requests 400]

One process answers requests with and without them in turn, so that a busy machine slows both.
Without them, a request has no span, no log line and no metric, and its statements are not timed;
ids, headers and limits remain. The figure is CPU time, of all threads: that which exports spans
counts, and each round exports its own. Nothing is asserted.
"""

import argparse
import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import compare
import httpx2
import uvloop
from fastapi import FastAPI
from sqlalchemy.engine import make_url

PATHS = {"a small model": compare.PLAIN, "one row of Postgres": compare.READ}
AT_ONCE = 8  # requests, fewer than the pool has connections
EXPORT_SECONDS = 10.0  # for the spans of a round


@contextmanager
def unobserved() -> Iterator[None]:
    """Record nothing about the requests within the block."""
    from app.platform.data.slow_statements import SlowStatements
    from app.platform.http.access_log import AccessLog
    from app.platform.observability import tracing

    module, log, statements = cast(Any, tracing), cast(Any, AccessLog), cast(Any, SlowStatements)
    server_span, record, timed = module.server_span, log.record, statements.timed
    nothing = nullcontext()
    module.server_span = lambda scope, headers: tracing.UNTRACED
    log.record = lambda self, request: None
    statements.timed = lambda self, statement: nothing
    try:
        yield
    finally:
        module.server_span, log.record, statements.timed = server_span, record, timed


async def signed_in(app: FastAPI) -> tuple[str, Mapping[str, str]]:
    """The path of an item, and the headers of the user who owns it."""
    sys.path.insert(0, str(compare.ROOT))  # for `tests`
    from tests.actors import seed, sign_in

    await seed(make_url(app.state.settings.database_url.get_secret_value()))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = await sign_in(client, "ada@example.com")
        items = importlib.import_module("best").ITEMS
        created = await client.post(items, json={"name": "Anchor"}, headers=headers)
    return f"{items}/{created.raise_for_status().json()['id']}", headers


async def cpu_time(
    app: FastAPI, path: str, requests: int, headers: Mapping[str, str] | None = None
) -> float:
    """Microseconds of CPU time for a request, with the export of its span."""
    from app.platform.observability import tracing

    sent = [(b"host", b"localhost")]
    sent += [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": sent,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    disconnected = asyncio.Event()

    def exchange() -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        received = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            if message := next(received, None):
                return message
            return await disconnected.wait()

        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200, message

        return receive, send

    async def client() -> None:
        for _ in range(requests // AT_ONCE):
            await app(dict(scope), *exchange())

    start = time.process_time()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await asyncio.sleep(0.3)  # until the lines are written
    await tracing.flush(EXPORT_SECONDS)
    return (time.process_time() - start) / requests * 1e6


async def measure(rounds: int, requests: int) -> None:
    app = compare.service()
    async with app.router.lifespan_context(app) as state:
        assert state
        measured: dict[str, tuple[str, Mapping[str, str]]] = {n: (p, {}) for n, p in PATHS.items()}
        if Path(__file__).with_name("best.py").exists():  # the example
            measured["an item, signed in"] = await signed_in(app)
        for name, (path, headers) in measured.items():
            await cpu_time(app, path, requests, headers)
            ratios, observed, bare = [], [], []
            for n in range(rounds):
                for watched in (n % 2 == 0, n % 2 != 0):
                    with nullcontext() if watched else unobserved():
                        each = await cpu_time(app, path, requests, headers)
                    (observed if watched else bare).append(each)
                ratios.append(observed[-1] / bare[-1])
            quarters = statistics.quantiles(ratios, n=4)
            print(
                f"{name}, traced: {os.environ['OTEL_TRACES_SAMPLER_ARG']}: "
                f"{statistics.median(ratios):.2f} times ({quarters[0]:.2f} to {quarters[2]:.2f}), "
                f"{statistics.median(bare):.0f} µs, and "
                f"{statistics.median(observed) - statistics.median(bare):.0f} µs more",
                file=sys.stderr,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--requests", type=int, default=400)
    given = parser.parse_args()
    if "MEASURED" in os.environ:
        uvloop.run(measure(given.rounds, given.requests))
        return
    with compare.environment() as variables:
        for ratio in ("0.1", "1"):
            environment = variables | {"MEASURED": "1", "OTEL_TRACES_SAMPLER_ARG": ratio}
            command = [sys.executable, __file__, *sys.argv[1:]]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
