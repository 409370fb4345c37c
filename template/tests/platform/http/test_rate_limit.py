"""Rate limits: the default one, those of routes, and their behaviour without Redis."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Header
from pydantic import SecretStr

from app.platform.data.redis import create_client
from app.platform.http import gcra
from app.platform.http.gcra import RateLimiter
from app.platform.http.rate_limit import limit
from app.platform.settings import SettingsError
from app.platform.settings.rates import Rate
from app.settings import Settings, get_settings
from tests.conftest import running_platform

URL = "/api/v1/counted"


async def counted() -> None:
    """A route that does nothing."""


@asynccontextmanager
async def limited(settings: Settings, **changes: object) -> AsyncIterator[FastAPI]:
    async with running_platform(settings.model_copy(update=changes)) as app:
        app.add_api_route(URL, counted)
        yield app


@asynccontextmanager
async def calling(app: FastAPI, address: str = "192.0.2.1") -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, client=(address, 1), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def statuses(client: httpx2.AsyncClient, times: int) -> list[int]:
    return [(await client.get(URL)).status_code for _ in range(times)]


@pytest.fixture
async def empty_redis(settings: Settings) -> Settings:
    async with create_client(settings) as redis:
        await redis.flushdb()
    return settings


def left(response: httpx2.Response) -> tuple[str, int, int]:
    """The policy, requests left and seconds of ``RateLimit``. Limits refill while a test runs."""
    parts = re.fullmatch(r'"(\w+)";r=(\d+);t=(\d+)', response.headers["RateLimit"])
    assert parts
    return parts[1], int(parts[2]), int(parts[3])


async def test_an_exceeded_limit_is_a_429_with_retry_after(empty_redis: Settings) -> None:
    async with limited(empty_redis, rate_limit=Rate(3, 60)) as app, calling(app) as client:
        first, _, third, refused = [await client.get(URL) for _ in range(4)]

    assert [first.status_code, third.status_code, refused.status_code] == [200, 200, 429]
    assert first.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert left(first) == ("default", 2, pytest.approx(20, rel=0.5))
    assert left(third) == ("default", 0, pytest.approx(20, rel=0.5))
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert left(refused) == ("default", 0, int(refused.headers["Retry-After"]))
    assert refused.json()["code"] == "too_many_requests"


async def test_error_responses_count_and_have_the_headers(empty_redis: Settings) -> None:
    async with limited(empty_redis, rate_limit=Rate(1, 60)) as app, calling(app) as client:
        missing = await client.get("/api/v1/unknown")
        refused = await client.get("/api/v1/unknown")

    assert missing.status_code == 404
    assert left(missing) == ("default", 0, pytest.approx(60, rel=0.5))
    assert refused.status_code == 429


async def test_probes_are_not_limited(empty_redis: Settings) -> None:
    async with limited(empty_redis, rate_limit=Rate(1, 60)) as app, calling(app) as client:
        responses = [await client.get("/health/live") for _ in range(5)]

    assert {response.status_code for response in responses} == {200}


async def test_a_limit_refills_evenly(empty_redis: Settings) -> None:
    async with limited(empty_redis, rate_limit=Rate(4, 3600)) as app, calling(app) as client:
        assert await statuses(client, 5) == [200, 200, 200, 200, 429]
        [key] = await app.state.redis.keys("limit:*")
        await app.state.redis.decrby(key, 900 * 1_000_000)  # as if 900 s had passed
        assert await statuses(client, 2) == [200, 429]


async def test_each_client_has_its_own_limit(empty_redis: Settings) -> None:
    async with (
        limited(empty_redis, rate_limit=Rate(1, 60)) as app,
        calling(app, "192.0.2.1") as one,
        calling(app, "192.0.2.2") as other,
    ):
        assert await statuses(one, 2) == [200, 429]
        assert await statuses(other, 1) == [200]


async def test_an_ipv6_network_is_one_client(empty_redis: Settings) -> None:
    async with (
        limited(empty_redis, rate_limit=Rate(1, 60)) as app,
        calling(app, "2001:db8:1:1::1") as one,
        calling(app, "2001:db8:1:1:ffff::9") as neighbour,
        calling(app, "2001:db8:1:2::1") as other,
    ):
        assert await statuses(one, 1) == [200]
        assert await statuses(neighbour, 1) == [429]
        assert await statuses(other, 1) == [200]


async def test_ipv4_mapped_addresses_are_separate_clients(empty_redis: Settings) -> None:
    async with (
        limited(empty_redis, rate_limit=Rate(1, 60)) as app,
        calling(app, "::ffff:192.0.2.1") as one,
        calling(app, "192.0.2.1") as the_same,
        calling(app, "::ffff:192.0.2.2") as other,
    ):
        assert await statuses(one, 1) == [200]
        assert await statuses(the_same, 1) == [429]
        assert await statuses(other, 1) == [200]


async def test_processes_share_one_limit(empty_redis: Settings) -> None:
    rate = Rate(30, 3600)
    async with (
        limited(empty_redis, rate_limit=rate) as app,
        limited(empty_redis, rate_limit=rate) as other,
        calling(app) as client,
        calling(other) as client_of_other,
    ):
        responses = await asyncio.gather(
            *(c.get(URL) for _ in range(50) for c in (client, client_of_other))
        )

    codes = [response.status_code for response in responses]
    assert codes.count(200) == 30
    assert set(codes) == {200, 429}


async def test_requests_during_a_round_trip_are_counted(settings: Settings) -> None:
    async with limited(settings) as app:
        limiter: RateLimiter = app.state.limiter

        async def hit_after(iterations: int) -> bool:
            for _ in range(iterations):
                await asyncio.sleep(0)
            return (await limiter.hit("late", Rate(100, 3600), "x")).allowed

        async with asyncio.timeout(20):
            allowed = await asyncio.gather(*(hit_after(iterations) for iterations in range(200)))

    assert allowed.count(True) == 100


async def test_a_cancelled_request_does_not_affect_others_in_its_batch(settings: Settings) -> None:
    async with limited(settings) as app:
        limiter: RateLimiter = app.state.limiter
        cancelled, other = (
            asyncio.create_task(limiter.hit("cancelled", Rate(9, 3600), key)) for key in "ab"
        )
        await asyncio.sleep(0)
        cancelled.cancel()
        async with asyncio.timeout(20):
            result = await other

    assert result.remaining == 8


async def test_a_round_trip_without_its_request_ends_with_the_app(
    settings: Settings, hanging_redis: SecretStr
) -> None:
    changes = {"redis_url": hanging_redis, "redis_timeout": 60.0}
    async with limited(settings, **changes) as app:
        limiter: RateLimiter = app.state.limiter
        request = asyncio.create_task(limiter.hit("cancelled", Rate(9, 3600), "a"))
        await asyncio.sleep(0)
        request.cancel()
        round_trip = limiter._batch_task
        assert round_trip
        assert not round_trip.done()
    assert round_trip.done()


async def test_the_default_limit_can_be_disabled(empty_redis: Settings) -> None:
    async with limited(empty_redis, rate_limit=None) as app, calling(app) as client:
        response = await client.get(URL)

    assert response.status_code == 200
    assert "RateLimit" not in response.headers


async def test_a_route_limit_counts_by_the_key_of_a_dependency(empty_redis: Settings) -> None:
    async def tenant(x_tenant: Annotated[str, Header()]) -> str:
        return x_tenant

    exports = limit("exports", "1/hour", by=tenant)
    async with limited(empty_redis) as app, calling(app) as client:
        for path in ("/api/v1/first", "/api/v1/second"):
            app.add_api_route(path, counted, dependencies=[exports])
        first = await client.get("/api/v1/first", headers={"X-Tenant": "a"})
        same = await client.get("/api/v1/second", headers={"X-Tenant": "a"})
        other = await client.get("/api/v1/second", headers={"X-Tenant": "b"})

    assert [first.status_code, same.status_code, other.status_code] == [200, 429, 200]
    default, exports_left = first.headers.get_list("RateLimit")
    assert default == '"default";r=599;t=1'
    assert exports_left.startswith('"exports";r=0;t=3')
    assert int(same.headers["Retry-After"]) == pytest.approx(3600, rel=0.1)


async def test_without_redis_each_process_counts_locally(
    empty_redis: Settings, dead_redis: SecretStr
) -> None:
    async with (
        limited(empty_redis, rate_limit=Rate(3, 3600), redis_url=dead_redis) as app,
        calling(app, "192.0.2.1") as one,
        calling(app, "192.0.2.2") as other,
    ):
        assert await statuses(one, 5) == [200, 200, 200, 429, 429]
        assert await statuses(other, 1) == [200]


async def test_without_redis_requests_are_refused_if_limits_fail_closed(
    empty_redis: Settings, dead_redis: SecretStr
) -> None:
    async with (
        limited(empty_redis, rate_limit_fail_open=False, redis_url=dead_redis) as app,
        calling(app) as client,
    ):
        response = await client.get(URL)

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_hanging_redis_delays_requests_only_once(
    empty_redis: Settings, hanging_redis: SecretStr
) -> None:
    async with (
        limited(empty_redis, redis_url=hanging_redis, rate_limit_timeout=0.3) as app,
        calling(app) as client,
    ):
        start = time.monotonic()
        responses = await asyncio.gather(*(client.get(URL) for _ in range(10)))
        assert {response.status_code for response in responses} == {200}
        first_seconds = time.monotonic() - start
        start = time.monotonic()
        assert set(await statuses(client, 50)) == {200}
        later_seconds = time.monotonic() - start

    assert first_seconds >= 0.3
    assert later_seconds < 50 * 0.3 / 3  # far from 50 waits, also on a busy machine


async def test_redis_is_used_again_after_it_recovers(
    empty_redis: Settings,
    silent_port: socket.socket,
    dead_redis: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gcra, "RETRY_INTERVAL", 0.05)
    async with (
        limited(empty_redis, rate_limit=Rate(1, 3600), redis_url=dead_redis) as app,
        calling(app) as client,
    ):
        assert await statuses(client, 2) == [200, 429]  # counted by the process
        async with forwarding(silent_port, empty_redis.redis_url):
            await asyncio.sleep(0.06)
            assert await statuses(client, 2) == [200, 429]  # counted in Redis


@asynccontextmanager
async def forwarding(source: socket.socket, target: SecretStr) -> AsyncIterator[None]:
    """Forward connections to ``source`` to the server at ``target``."""
    url = httpx2.URL(target.get_secret_value())

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # a client that leaves with data unread
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(url.host, url.port)
        await asyncio.gather(copy(reader, target_writer), copy(target_reader, writer))

    server = await asyncio.start_server(forward, sock=source)
    try:
        yield
    finally:
        server.close()


@pytest.mark.parametrize(
    ("text", "limit_", "window"),
    [("100/minute", 100, 60), ("10/15 minutes", 10, 900), ("1/day", 1, 86400)],
)
def test_valid_rates_are_parsed(text: str, limit_: int, window: int) -> None:
    assert Rate.parse(text) == Rate(limit_, window)


@pytest.mark.parametrize(
    "text", ["", "many", "0/minute", "-1/minute", "10", "10/fortnight", "1/0 s"]
)
def test_invalid_rates_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        Rate.parse(text)


async def test_the_setting_is_read_from_the_environment(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RATE_LIMIT", "off")
    assert get_settings().rate_limit is None
    get_settings.cache_clear()
    monkeypatch.setenv("RATE_LIMIT", "a lot")
    with pytest.raises(SettingsError, match=r"RATE_LIMIT: is not a rate; write it as 100/minute"):
        get_settings()


@pytest.fixture
def silent_port() -> Iterator[socket.socket]:
    """A reserved port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


@pytest.fixture
def dead_redis(silent_port: socket.socket) -> SecretStr:
    """The URL of a Redis that is unreachable."""
    return SecretStr(f"redis://127.0.0.1:{silent_port.getsockname()[1]}/0")


@pytest.fixture
async def hanging_redis() -> AsyncIterator[SecretStr]:
    """The URL of a Redis that accepts connections and never responds."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        yield SecretStr(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
