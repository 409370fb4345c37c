"""Memory leaks: a worker's memory does not grow with the number of requests (an hour's worth)."""

import asyncio
import json
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from statistics import median

import httpx2
from redis import Redis
from sqlalchemy import make_url, text

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import open_connection
from tests.fire._wire import KeepAliveClient, children, gunicorn_workers, request, resident
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve
from tests.system.serving import Serve, Server

__all__ = ["serve"]

WORKERS, CLIENTS = 2, 8
REQUESTS = (180_000 if FULL else 4_000) * WORKERS
WINDOWS = 10  # of which the first half is the warm-up
# MB; more than the allocator fluctuates. A leak of 250 bytes per request is 13 MB at full size;
# a small run finds leaks of 8 KB.
MAX_GROWTH = 12.0 if FULL else 8.0


class Client:
    """A client that sends random requests, each with other ids and from another address."""

    auth_headers: dict[str, str]

    def __init__(self, server: Server, seed: int) -> None:
        self.client = KeepAliveClient(server)
        self.random = random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.items: list[str] = []

    async def run(self, requests: Iterator[int]) -> None:
        for _ in requests:
            self.statuses[await self.client.send(self._random_request())] += 1
            if b'"description":' in self.client.body and b'"items":' not in self.client.body:
                self.items = [*self.items[-3:], json.loads(self.client.body)["id"]]

    def _random_request(self) -> bytes:
        """A typical request with unique values."""
        unique = secrets.token_hex(8)
        fresh = {
            "X-Request-ID": unique,
            "X-Forwarded-For": f"10.{'.'.join(str(n) for n in secrets.token_bytes(3))}",
            "User-Agent": unique,
            "traceparent": f"00-{secrets.token_hex(16)}-{unique}-0{self.random.randrange(2)}",
        }
        signed_in = fresh | self.auth_headers
        item = f"/api/v1/items/{self.random.choice(self.items or [unique])}"
        item_body = json.dumps({"name": unique, "description": unique * 20}).encode()
        account = json.dumps({"email": f"{unique}@example.com", "password": unique}).encode()
        login = f"username={unique}@example.com&password={unique}".encode()
        form = "application/x-www-form-urlencoded"
        return self.random.choices(
            (
                request("GET", f"/{unique}/{unique}.php?{unique}", fresh),
                request("GET", f"/api/v1/{unique}", fresh),
                request("POST", "/api/v1/items", signed_in, item_body),
                request("GET", item, signed_in),
                request("GET", item, {**signed_in, "If-None-Match": f'"{unique}"'}),
                request("PATCH", item, signed_in, item_body),
                request("DELETE", item, signed_in),
                request("GET", "/api/v1/items?limit=2", signed_in),
                request("GET", f"/api/v1/items?cursor={unique}", signed_in),
                request("GET", item, {**fresh, "Authorization": f"Bearer {unique}"}),
                request("POST", "/api/v1/items", signed_in, unique.encode()),
                request("PUT", "/api/v1/items", fresh),
                request("POST", "/api/v1/auth/register", fresh, account),
                request("POST", "/api/v1/auth/login", fresh, login, form),
                request("GET", "/metrics", fresh),
                request("GET", "/health/ready", fresh),
            ),
            weights=(12, 12, 10, 20, 6, 6, 8, 8, 4, 6, 4, 4, 2, 1, 1, 1),
        )[0]


async def connections(settings: Settings) -> int:
    """The number of connections to the test's database, without the one of this query."""
    url = make_url(settings.database_url.get_secret_value())
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with open_connection(url) as connection:
        return int((await connection.execute(text(statement))).scalar_one()) - 1


async def test_memory_does_not_grow_with_the_number_of_requests(
    serve: Serve, fresh_settings: Settings, note: Note
) -> None:
    server = serve(
        WEB_CONCURRENCY=str(WORKERS),
        # Workers would otherwise restart after 100,000 requests.
        GUNICORN_CMD_ARGS="--max-requests 0",
        DB_POOL_SIZE="5",
        RATE_LIMIT="100000/second",
    )
    workers = gunicorn_workers(server, WORKERS)
    clients = [Client(server, seed) for seed in range(CLIENTS)]
    sizes: list[list[float]] = []
    for window in range(WINDOWS):
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            auth_headers = await sign_in(client, f"memory-{window}@example.com")
        for each in clients:
            each.auth_headers = auth_headers
        shared = iter(range(REQUESTS // WINDOWS))  # one iterator, so that all finish together
        await asyncio.gather(*(each.run(shared) for each in clients))
        sizes.append([resident(pid) for pid in workers])
    for each in clients:
        each.client.close()
    statuses = sum((each.statuses for each in clients), Counter[int]())
    growth = max(_growth(worker) for worker in zip(*sizes, strict=True))
    note(
        requests=statuses.total(),
        megabytes_after_warm_up=round(max(sizes[WINDOWS // 2 - 1])),
        megabytes_at_the_end=round(max(sizes[-1])),
        statuses=dict(sorted(statuses.items())),
    )
    assert children(server.process.pid) == workers
    assert growth < MAX_GROWTH, sizes
    assert not [status for status in statuses if status >= 500], statuses
    assert statuses[401] < statuses.total() / 5, "most requests are authenticated"
    assert await connections(fresh_settings) <= WORKERS * 5
    with Redis.from_url(fresh_settings.redis_url.get_secret_value()) as redis:
        assert not [key for key in redis.scan_iter("limit:*") if redis.ttl(key) == -1]
    assert server.stop() == 0


def _growth(sizes: tuple[float, ...]) -> float:
    """The growth from the warm-up to the end, each the median of three windows."""
    half = len(sizes) // 2
    return median(sizes[-3:]) - median(sizes[half - 1 : half + 2])
