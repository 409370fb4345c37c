"""The time from a signed webhook to its 202, whose route enqueues a job.

    uv run python benchmarks/webhooks.py [--rate 50] [--seconds 20]

Two Gunicorn workers, and clients on the same machine. Messages are sent at a constant rate, whether
or not those before have been answered, over connections that stay open. Nothing is asserted.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from typing import Annotated

import compare
from fastapi import APIRouter, Depends, FastAPI

from app.platform.jobs import JobContext, job

SOURCE = "bench"
KEY = b"a key that is for this benchmark"
BODY = b'{"type":"order.paid","timestamp":"2026-01-31T12:00:00Z","data":{"order":7}}'
CONNECTIONS = 20


@job(name="benchmark.book")
async def book(context: JobContext) -> None:
    """What the webhook is for."""


def create_app() -> FastAPI:
    """The service, with a route for webhooks."""
    from app import main
    from app.platform.http import routing
    from app.platform.http.webhooks import WebhookMessage, webhook_source
    from app.platform.jobs import Jobs

    source = webhook_source(SOURCE)
    router = APIRouter(prefix="/bench")

    @router.post("/webhooks", status_code=202)
    async def receive(message: Annotated[WebhookMessage, Depends(source)], jobs: Jobs) -> None:
        await jobs.enqueue(book)

    app = main.create_app()
    app.include_router(router)
    routing.install_index(app)
    return app


async def send(url: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each message was due until its 202."""
    from tests.webhooks import signed

    host, _, port = url.removeprefix("http://").partition(":")
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(host, int(port)))
    took: list[float] = []

    async def one(due: float) -> None:
        reader, writer = await free.get()
        head = ["POST /bench/webhooks HTTP/1.1", f"Host: {host}", f"Content-Length: {len(BODY)}"]
        head += [f"{name}: {value}" for name, value in signed(KEY, BODY).items()]
        writer.write("\r\n".join([*head, "", ""]).encode() + BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202"), answer
        rest = answer.lower().partition(b"content-length: ")[2]
        await reader.readexactly(int(rest.split(b"\r\n")[0] or b"0"))
        took.append((time.monotonic() - due) * 1000)
        free.put_nowait((reader, writer))

    start = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for n in range(int(rate * seconds)):
            due = start + n / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(one(due))
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    sys.path.insert(0, str(compare.ROOT))
    port = compare.free_port()
    more = {
        "WEB_CONCURRENCY": "2",
        "PORT": str(port),
        "WEBHOOK_SECRETS": f"{SOURCE}:{KEY.decode()}",
    }
    command = [sys.executable, "-m", "gunicorn", "webhooks:create_app()"]
    with compare.environment() as variables:
        server = compare.Server(command, variables | more, port)
        try:
            server.wait("/health/ready")
            asyncio.run(send(server.url, options.rate, 3))
            took = asyncio.run(send(server.url, options.rate, options.seconds))
        finally:
            server.stop()
    percentiles = statistics.quantiles(took, n=100)
    print(f"{len(took)} messages, {options.rate:g} a second, {os.cpu_count()} CPUs:", end=" ")
    print(f"{percentiles[49]:.1f} ms median, {percentiles[98]:.1f} ms p99,", end=" ")
    print(f"{max(took):.0f} ms at most; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
