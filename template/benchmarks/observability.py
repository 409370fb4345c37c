"""What logs, metrics and traces cost a request, measured on this machine, now.

    uv run python benchmarks/observability.py [--rounds 20] [--requests 1000]

One process answers requests with and without them in turn, so that a busy machine slows both.
Without them, a request has no span, no log line and no metric; ids, headers and limits remain. The
figure is CPU time, of all threads: that which exports spans counts. Nothing is asserted.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import compare
from fastapi import FastAPI

PATHS = {"a small model": compare.PLAIN, "one row of Postgres": compare.READ}


@contextmanager
def unobserved() -> Iterator[None]:
    """Record nothing about the requests within the block."""
    from app.platform.http.access_log import AccessLog
    from app.platform.observability import tracing

    module, log = cast(Any, tracing), cast(Any, AccessLog)
    server_span, record = module.server_span, log.record
    module.server_span = lambda scope, headers: tracing.UNTRACED
    log.record = lambda self, request: None
    try:
        yield
    finally:
        module.server_span, log.record = server_span, record


async def cpu_time(app: FastAPI, path: str, requests: int) -> float:
    """Microseconds of CPU time for a request."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [(b"host", b"localhost")],
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

    start = time.process_time()
    for _ in range(requests):
        await app(dict(scope), *exchange())
    await asyncio.sleep(0.1)  # until the lines are written
    return (time.process_time() - start) / requests * 1e6


async def measure(rounds: int, requests: int) -> None:
    app = compare.service()
    async with app.router.lifespan_context(app) as state:
        assert state
        for name, path in PATHS.items():
            await cpu_time(app, path, requests)
            ratios, observed, bare = [], [], []
            for _ in range(rounds):
                observed.append(await cpu_time(app, path, requests))
                with unobserved():
                    bare.append(await cpu_time(app, path, requests))
                ratios.append(observed[-1] / bare[-1])
            quarters = statistics.quantiles(ratios, n=4)
            print(
                f"{name}, traced: {os.environ['OTEL_TRACES_SAMPLER_ARG']}: "
                f"{statistics.median(ratios):.2f} times ({quarters[0]:.2f} to {quarters[2]:.2f}), "
                f"{statistics.median(observed) - statistics.median(bare):.0f} µs more",
                file=sys.stderr,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000)
    given = parser.parse_args()
    if "MEASURED" in os.environ:
        asyncio.run(measure(given.rounds, given.requests))
        return
    with compare.environment() as variables:
        for ratio in ("0.1", "1"):
            environment = variables | {"MEASURED": "1", "OTEL_TRACES_SAMPLER_ARG": ratio}
            command = [sys.executable, __file__, *sys.argv[1:]]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
