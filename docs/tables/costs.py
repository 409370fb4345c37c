"""What the features cost: the CPU time of requests with a feature, as a ratio of those without it.

`make costs` renders and installs a service with all features, and runs this in it. Every pair of
routes does the same work, once with the feature. Both are called in this process, without a server
around them, in turns of a batch each, so that a busy machine slows both; Postgres and Valkey are
those of `app dev`. A figure is the median of the rounds' ratios, with its quartiles.
"""

import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

ROUNDS = int(os.environ.get("ROUNDS", "30"))
BATCH = 40
WARM_UP = 150
ITEMS = 20  # of a batch request
CALLS = 10  # of a fan-out
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


TABLE = (
    "CREATE TABLE costs (number serial PRIMARY KEY, amount int)",
    "INSERT INTO costs (amount) VALUES (1)",
)


@dataclass(frozen=True)
class Call:
    """A request; ``key`` returns its idempotency key, ``times`` is how often it is sent."""

    method: str
    path: str
    body: bytes = b""
    key: Callable[[], str] | None = None
    times: int = 1


numbers = count()
ONE = b'{"amount": 7}'
MANY = json.dumps({"items": [{"amount": 7}] * ITEMS}).encode()
# What is compared: the feature, what it does, the request without it, and with it.
PAIRS = [
    ("idempotency", "no key", Call("POST", "/pay", ONE), Call("POST", "/once/pay", ONE)),
    (
        "idempotency",
        "a new key",
        Call("POST", "/pay", ONE),
        Call("POST", "/once/pay", ONE, key=lambda: f"new-{next(numbers)}"),
    ),
    (
        "idempotency",
        "a repeated request",
        Call("POST", "/pay", ONE),
        Call("POST", "/once/pay", ONE, key=lambda: "always-the-same"),
    ),
    (
        "redis_cache",
        "a hit in Redis, instead of a read of one row",
        Call("GET", "/row"),
        Call("GET", "/cached"),
    ),
    (
        "redis_cache",
        "a hit in the process, instead of a read of one row",
        Call("GET", "/row"),
        Call("GET", "/local"),
    ),
    (
        "upstreams",
        "one call, instead of one of the bare client",
        Call("GET", "/client"),
        Call("GET", "/upstream"),
    ),
    ("flags", "one evaluation", Call("GET", "/nothing"), Call("GET", "/flag")),
    (
        "fan_out",
        f"{CALLS} calls that return at once, instead of `asyncio.gather`",
        Call("GET", "/gather"),
        Call("GET", "/fan-out"),
    ),
    (
        "bulk",
        f"a batch of {ITEMS}, instead of {ITEMS} requests",
        Call("POST", "/pay", ONE, times=ITEMS),
        Call("POST", "/batch", MANY),
    ),
]


def add_routes(app: Any, peer: str) -> None:
    """The routes that are called, outside of `/api/`: without authentication and rate limit."""
    from app.platform.base.fan_out import fan_out
    from app.platform.data.cache import Cached, CacheDep
    from app.platform.data.database import ReadSessionDep, SessionDep
    from app.platform.data.flags import FlagsDep
    from app.platform.data.http_client import HttpClientDep
    from app.platform.data.upstreams import Upstream, upstream
    from app.platform.http import routing
    from app.platform.http.batches import Batch, BatchRequest, run_batch
    from app.platform.http.idempotency import idempotent
    from app.platform.http.schemas import RequestModel, ResponseModel
    from fastapi import APIRouter, Depends
    from sqlalchemy import column, insert, select, table

    class Payment(RequestModel):
        amount: int

    class Paid(ResponseModel):
        number: int

    payments = table("costs", column("number"), column("amount"))
    new = insert(payments).returning(payments.c.number)
    first = select(payments.c.number).limit(1)
    in_redis = Cached("costs.redis", Paid, ttl=3600)
    in_process = Cached("costs.local", Paid, ttl=3600, local_ttl=3600)
    service = upstream("costs", base_url=peer)
    routes, once = APIRouter(), APIRouter(prefix="/once", route_class=idempotent(by=lambda: "ada"))

    async def add(session: Any, payment: Payment) -> Paid:
        return Paid(number=(await session.execute(new, {"amount": payment.amount})).scalar_one())

    async def pay(payment: Payment, session: SessionDep) -> Paid:
        return await add(session, payment)

    async def pay_all(batch: BatchRequest[Payment], session: SessionDep) -> Batch[Paid]:
        return await run_batch(session, batch, lambda payment: add(session, payment))

    async def load(session: Any) -> Paid:
        return Paid(number=(await session.first(first))[0])

    async def read(session: ReadSessionDep) -> Paid:
        return await load(session)

    async def cached(session: ReadSessionDep, cache: CacheDep) -> Paid:
        return await cache.get(in_redis, 1, lambda: load(session))

    async def local(session: ReadSessionDep, cache: CacheDep) -> Paid:
        return await cache.get(in_process, 1, lambda: load(session))

    async def client(http: HttpClientDep) -> Paid:
        return Paid(number=(await http.get(peer)).status_code)

    async def through_upstream(upstream: Annotated[Upstream, Depends(service)]) -> Paid:
        return Paid(number=(await upstream.get("/")).status_code)

    async def nothing() -> Paid:
        return Paid(number=1)

    async def flag(flags: FlagsDep) -> Paid:
        return Paid(number=int(flags.enabled("costs", "ada")))

    async def work(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def gathered() -> Paid:
        return Paid(number=len(await asyncio.gather(*map(work, range(CALLS)))))

    async def fanned_out() -> Paid:
        return Paid(number=len(await fan_out(work, range(CALLS), timeout=5, limit=CALLS)))

    for path, route in {
        "/row": read,
        "/cached": cached,
        "/local": local,
        "/client": client,
        "/upstream": through_upstream,
        "/nothing": nothing,
        "/flag": flag,
        "/gather": gathered,
        "/fan-out": fanned_out,
    }.items():
        routes.add_api_route(path, route)
    for router in (routes, once):
        router.add_api_route("/pay", pay, methods=["POST"])
    routes.add_api_route("/batch", pay_all, methods=["POST"], status_code=207)
    app.include_router(routes)
    app.include_router(once)
    routing.install_index(app)


@asynccontextmanager
async def called_app(peer: str) -> AsyncIterator[Any]:
    from app import main
    from sqlalchemy import text

    app = main.create_app()
    async with app.router.lifespan_context(app):
        async with app.state.db.transaction() as session:
            await session.execute(
                text("CREATE TABLE costs (number serial PRIMARY KEY, amount int)")
            )
            await session.execute(text("INSERT INTO costs (amount) VALUES (1)"))
        yield app


async def send(app: Any, call: Call) -> None:
    """Send a request as a server would; fail if it is not answered with a success."""
    statuses = []
    headers = [(b"host", b"localhost"), (b"content-length", str(len(call.body)).encode())]
    if call.body:
        headers.append((b"content-type", b"application/json"))
    if call.key:
        headers.append((b"idempotency-key", call.key().encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def take(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 200))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, receive, take)
    assert max(statuses) < 300, (call, statuses)


async def microseconds(app: Any, call: Call, requests: int) -> float:
    """The CPU time of this thread for a call, all of its ``times`` together."""
    started = time.thread_time()
    for _ in range(requests * call.times):
        await send(app, call)
    return (time.thread_time() - started) / requests * 1e6


def peer() -> Iterator[str]:
    """The URL of a server in a thread of its own, whose time is not counted."""
    ready: list[str] = []
    started = threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ready.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        started.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    started.wait()
    yield ready[0]


async def measure(url: str) -> None:
    async with called_app(url) as app:
        add_routes(app, url)
        results: dict[int, list[tuple[float, float]]] = {n: [] for n in range(len(PAIRS))}
        for _, _, without, with_it in PAIRS:
            for call in (without, with_it):
                await microseconds(app, call, max(1, WARM_UP // call.times))
        for _ in range(ROUNDS):
            for number, (_, _, without, with_it) in enumerate(PAIRS):
                batch = max(1, BATCH // max(without.times, with_it.times))
                plain = await microseconds(app, without, batch)
                results[number].append((plain, await microseconds(app, with_it, batch)))
    print("| feature | with it | microseconds without | with | ratio | quartiles |")
    print("|---|---|---|---|---|---|")
    for number, (feature, what, _, _) in enumerate(PAIRS):
        plain, used = (statistics.median(each) for each in zip(*results[number], strict=True))
        low, ratio, high = statistics.quantiles([b / a for a, b in results[number]], n=4)
        figures = f"{plain:.0f} | {used:.0f} | {ratio:.2f} | {low:.2f} to {high:.2f}"
        print(f"| `{feature}` | {what} | {figures} |")
    print(f"\nLoad average: {os.getloadavg()[0]:.1f}; {ROUNDS} rounds of {BATCH} requests.")


def main() -> None:
    sys.path[:0] = [str(Path.cwd()), str(Path.cwd() / "benchmarks")]
    import compare
    import uvloop

    compare.compile_all = lambda: None  # what is used is compiled before it is measured
    os.environ["UPLOADS_URL"] = "file:///tmp/costs"  # production requires it; nothing is uploaded
    with compare.environment() as variables:
        os.environ.update(variables, LOG_LEVEL="WARNING")
        for url in peer():
            uvloop.run(measure(url))


if __name__ == "__main__":
    main()
