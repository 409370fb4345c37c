"""Upstreams, against a scripted peer on a real socket, which counts what it receives."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import Depends
from prometheus_client import CollectorRegistry

from app.platform.base import context
from app.platform.data import upstreams
from app.platform.data.http_client import create_client
from app.platform.data.upstream_errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamUnavailable,
)
from app.platform.data.upstream_metrics import UpstreamMetrics
from app.platform.data.upstreams import Upstream, upstream
from app.platform.jobs import JobContext
from app.platform.settings.upstreams import UpstreamPolicy
from app.settings import Settings
from tests.conftest import ROOT, client_for, running_platform
from tests.platform.data.peer import Peer, running_peer

CLOSED_PORT = "http://127.0.0.1:1"
MEGABYTE = 1_048_576
Connect = Callable[..., Upstream]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        yield peer


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with create_client(settings) as client:
        yield client


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def connect(peer: Peer, http: httpx2.AsyncClient, registry: CollectorRegistry) -> Connect:
    """The peer as an upstream; without a back-off worth waiting for."""
    metrics = UpstreamMetrics(registry)

    def connect(**policy: Any) -> Upstream:
        values: dict[str, Any] = {"base_url": peer.url, "backoff": 0.001, **policy}
        return Upstream("billing", UpstreamPolicy(**values), http, metrics)

    return connect


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def error_of(call: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize(
    ("action", "error", "attempts"),
    [
        ("hang", UpstreamTimedOut, 1),  # until the deadline, which leaves no time for another
        ("drip", UpstreamTimedOut, 1),
        ("reset", UpstreamFailed, 3),
        ("close", UpstreamFailed, 3),
        ("garbage", UpstreamFailed, 3),
        ("flood", UpstreamFailed, 1),
        ("500", UpstreamFailed, 3),
        ("501", UpstreamFailed, 1),
        ("503", UpstreamUnavailable, 3),
        ("504", UpstreamTimedOut, 3),
        ("429", UpstreamUnavailable, 3),
    ],
)
async def test_whatever_the_peer_does_ends_in_time_as_an_error_that_names_it(
    peer: Peer, connect: Connect, action: str, error: type[UpstreamError], attempts: int
) -> None:
    peer.will(otherwise=action)
    timeout = 0.1 if action in ("hang", "drip") else 10.0
    start = time.monotonic()
    raised = await error_of(connect(timeout=timeout, max_body=MEGABYTE).get("/secret"))
    assert time.monotonic() - start < timeout + 2
    assert (type(raised), len(peer.requests)) == (error, attempts)
    assert "billing" in raised.detail
    assert "secret" not in raised.detail
    assert str(peer.port) not in raised.detail


async def test_a_peer_that_is_not_there_or_does_not_speak_tls_has_failed(connect: Connect) -> None:
    refused = await error_of(connect(base_url=CLOSED_PORT).get("/"))

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example.com ready\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        no_tls = await error_of(connect(base_url=url).get("/"))
    assert (type(refused), type(no_tls)) == (UpstreamFailed, UpstreamFailed)


async def test_of_a_body_that_is_too_large_little_is_received(peer: Peer, connect: Connect) -> None:
    peer.will("flood")
    await error_of(connect(max_body=MEGABYTE).get("/"))
    await until(lambda: peer.open == 0)
    assert peer.bytes_sent < 32 * MEGABYTE  # what the sockets buffer


async def test_a_bomb_that_is_small_while_it_is_compressed_is_too_large(
    peer: Peer, connect: Connect
) -> None:
    import gzip

    body = gzip.compress(bytes(8 * MEGABYTE))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await error_of(connect(base_url=url, max_body=MEGABYTE).get("/"))
        small = await connect(base_url=url).get("/")
    assert len(small.content) == 8 * MEGABYTE


async def test_an_answer_below_500_is_returned(peer: Peer, connect: Connect) -> None:
    peer.will("200", "302", "404", "422")
    billing = connect()
    assert [(await billing.get("/")).status_code for _ in range(4)] == [200, 302, 404, 422]
    assert (await billing.get("/")).json() == {}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_what_is_idempotent_is_retried(peer: Peer, connect: Connect, method: str) -> None:
    peer.will("500", "reset", "200")
    response = await connect().request(method, "/invoices", params={"page": 2})
    assert response.status_code == 200
    assert len(peer.requests) == 3
    assert all(b" /invoices?page=2 " in request for request in peer.requests)


@pytest.mark.parametrize("action", ["500", "503", "reset", "close"])
async def test_what_is_not_idempotent_is_sent_once(
    peer: Peer, connect: Connect, action: str
) -> None:
    peer.will(action)
    await error_of(connect().post("/charges", json={"amount": 3}))
    assert len(peer.requests) == 1


async def test_a_post_with_an_idempotency_key_is_retried_with_it(
    peer: Peer, connect: Connect
) -> None:
    peer.will("500", "close", "200")
    headers = {"Idempotency-Key": "k-1"}
    response = await connect().post("/charges", json={"amount": 3}, headers=headers)
    assert response.status_code == 200
    assert [b"idempotency-key: k-1" in request for request in peer.requests] == [True] * 3
    assert [b'"amount":3' in request for request in peer.requests] == [True] * 3


async def test_a_request_that_was_not_sent_is_retried_at_the_address_that_is_right_by_then(
    peer: Peer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale DNS entry: nobody listens at the first address."""
    addresses = ["127.0.0.9", "127.0.0.1"]

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "billing.test"
        return [(2, 1, 6, "", (addresses.pop(0), port))]

    monkeypatch.setattr("anyio._core._sockets.getaddrinfo", resolve)
    billing = connect(base_url=f"http://billing.test:{peer.port}")
    assert (await billing.post("/charges", json={})).status_code == 200
    assert (addresses, len(peer.requests)) == ([], 1)


async def test_a_kept_connection_that_the_peer_closes_is_replaced(
    peer: Peer, connect: Connect
) -> None:
    peer.will("200", "close", "200")
    billing = connect()
    await billing.get("/")
    await billing.get("/")
    assert (len(peer.requests), peer.connections) == (3, 2)


async def test_retry_after_is_waited_for_if_there_is_time(
    peer: Peer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    wait, caller = asyncio.sleep, asyncio.current_task()

    async def sleep(seconds: float) -> None:
        if asyncio.current_task() is not caller:  # tasks of the app's own: they would never wait
            await wait(seconds)
            return
        slept.append(seconds)
        await wait(0)

    monkeypatch.setattr(upstreams.asyncio, "sleep", sleep)
    peer.will("503:2", "429:1", "200")
    assert (await connect(timeout=10).get("/")).status_code == 200
    assert slept == [pytest.approx(2, abs=0.01), pytest.approx(1, abs=0.01)]


async def test_retry_after_beyond_the_deadline_is_passed_on_to_the_caller(
    peer: Peer, connect: Connect
) -> None:
    peer.will("503:60")
    error = await error_of(connect(timeout=5).get("/"))
    assert (error.headers["Retry-After"], len(peer.requests)) == ("60", 1)


@pytest.mark.parametrize(("ratio", "burst"), [(0.1, 5), (0.0, 3), (0.2, 0)])
async def test_in_an_outage_the_peer_sees_no_more_retries_than_the_budget_has(
    peer: Peer, connect: Connect, ratio: float, burst: int
) -> None:
    """The circuit breaker is switched off here: with it there are even fewer."""
    peer.will(otherwise="500")
    billing = connect(
        retries=5, retry_ratio=ratio, retry_burst=burst, breaker_threshold=1, breaker_window=10_000
    )

    async def call_repeatedly() -> None:
        for _ in range(5):
            await error_of(billing.get("/"))

    await asyncio.gather(*(call_repeatedly() for _ in range(20)))
    retries = len(peer.requests) - 100
    assert 0 < retries <= burst + ratio * 100


async def test_in_an_outage_the_breaker_ends_the_calls(peer: Peer, connect: Connect) -> None:
    peer.will(otherwise="500")
    billing = connect(breaker_window=10)
    await asyncio.gather(*(error_of(billing.get("/")) for _ in range(100)))
    assert len(peer.requests) <= 5 + billing.policy.max_concurrency


async def test_a_call_ends_with_the_request_that_makes_it_and_that_is_not_the_peers_fault(
    peer: Peer, connect: Connect
) -> None:
    peer.will(otherwise="hang")
    billing = connect(breaker_window=1)
    with context.bind_request_context(deadline=time.monotonic() + 0.05):
        assert type(await error_of(billing.get("/"))) is UpstreamTimedOut
    assert billing.breaker.state == "closed"
    own = connect(breaker_window=1, read_timeout=0.02, retries=0)
    await error_of(own.get("/"))
    assert own.breaker.state == "open"


async def test_the_bulkhead_limits_the_calls_at_once_and_how_long_others_wait(
    peer: Peer, connect: Connect, registry: CollectorRegistry
) -> None:
    peer.will(otherwise="hang")
    billing = connect(max_concurrency=2, max_wait=0.02, breaker_window=3)
    held = [asyncio.create_task(billing.get("/")) for _ in range(2)]
    await until(lambda: len(peer.requests) == 2)
    errors = await asyncio.gather(*(error_of(billing.get("/")) for _ in range(3)))
    assert [error.reason for error in errors] == ["bulkhead_full"] * 3
    assert (len(peer.requests), billing.breaker.state) == (2, "closed")
    labels = {"upstream": "billing", "reason": "bulkhead_full"}
    assert registry.get_sample_value("upstream_rejections_total", labels) == 3

    peer.will(otherwise="200")
    waiting = asyncio.create_task(connect_with(billing, max_wait=5).get("/"))
    for task in held:
        task.cancel()
    assert (await waiting).status_code == 200
    assert billing.breaker.state == "closed"


def connect_with(one: Upstream, **changes: Any) -> Upstream:
    """The same upstream, with other values in its policy."""
    one.policy = one.policy.model_copy(update=changes)
    return one


async def test_the_limit_of_our_own_connections_is_not_the_peers_failure(
    peer: Peer, settings: Settings, registry: CollectorRegistry
) -> None:
    peer.will(otherwise="hang")
    policy = UpstreamPolicy(base_url=peer.url, pool_timeout=0.02, breaker_window=1)
    async with create_client(settings.model_copy(update={"http_max_connections": 1})) as http:
        billing = Upstream("billing", policy, http, UpstreamMetrics(registry))
        held = asyncio.create_task(billing.get("/"))
        await until(lambda: len(peer.requests) == 1)
        error = await error_of(billing.get("/"))
        held.cancel()
    assert (type(error), billing.breaker.state) == (UpstreamUnavailable, "closed")


async def test_identical_reads_share_one_response(
    peer: Peer, connect: Connect, registry: CollectorRegistry
) -> None:
    billing = connect()
    alike = [billing.get("/a", coalesce=True, headers={"X-A": "1"}) for _ in range(10)]
    others = [billing.get("/a", coalesce=True, headers={"X-A": "2"}), billing.get("/a")]
    responses = await asyncio.gather(*alike, *others)
    assert {response.status_code for response in responses} == {200}
    assert len(peer.requests) == 3
    assert registry.get_sample_value("upstream_coalesced_total", {"upstream": "billing"}) == 9
    await billing.get("/a", coalesce=True)  # a later one is not identical
    assert len(peer.requests) == 4


async def test_who_shares_a_response_does_not_depend_on_the_one_who_asked_first(
    peer: Peer, connect: Connect
) -> None:
    peer.will("hold", "200")
    billing = connect(read_timeout=30, timeout=30)

    async def ask(seconds: float | None) -> int:
        deadline = None if seconds is None else time.monotonic() + seconds
        with context.bind_request_context(deadline=deadline):
            return (await billing.get("/", coalesce=True)).status_code

    first, late = asyncio.create_task(ask(None)), asyncio.create_task(error_of(ask(0.02)))
    other = asyncio.create_task(ask(None))
    await until(lambda: len(peer.requests) == 1)
    first.cancel()
    assert type(await late) is UpstreamTimedOut
    peer.released.set()
    assert await other == 200

    peer.will("hold", "200")
    leaves, stays = (asyncio.create_task(ask(None)) for _ in range(2))
    await until(lambda: len(peer.requests) == 3)
    leaves.cancel()
    peer.released.set()
    assert await stays == 200

    peer.will("hang")
    alone = asyncio.create_task(ask(None))
    await until(lambda: len(peer.requests) == 5)
    alone.cancel()
    await until(lambda: peer.open <= 1)  # nobody waits: the call has ended, too
    assert billing.breaker.state == "closed"


@pytest.mark.parametrize(
    ("method", "burst", "status", "requests"),
    [("GET", 1, 200, 2), ("GET", 0, 502, 1), ("PUT", 1, 502, 1)],
)
async def test_a_slow_read_is_hedged_within_the_budget(
    peer: Peer, connect: Connect, method: str, burst: int, status: int, requests: int
) -> None:
    peer.will("hang" if requests == 2 else "hold", "200")
    billing = connect(timeout=30, hedge_after=0.02, retry_burst=burst, retries=0)
    call = asyncio.create_task(billing.request(method, "/"))
    await until(lambda: len(peer.requests) == requests)
    if requests == 1:
        await asyncio.sleep(0.1)  # in which a second request would be sent
        peer.released.set()
    try:
        got = (await call).status_code
    except UpstreamError as error:
        got = error.status.value
    assert (got, len(peer.requests)) == (status, requests)
    await until(lambda: peer.open <= 1)  # the slower one has ended
    peer.will("200")
    unhedged = connect_with(billing, hedge_after=None)
    assert (await unhedged.get("/")).status_code == 200
    assert len(peer.requests) == requests + 1


async def test_a_fallback_stands_in_for_a_failure_and_for_no_other_error(
    peer: Peer, connect: Connect
) -> None:
    billing = connect()

    async def total() -> int:
        response = await billing.get("/")
        return int(response.raise_for_status().json()["total"])

    peer.will(otherwise="500")
    assert await billing.with_fallback(total(), 7) == 7
    peer.will("200")
    with pytest.raises(KeyError):
        await billing.with_fallback(total(), 7)


async def test_a_path_stays_below_the_base_url(connect: Connect) -> None:
    with pytest.raises(ValueError, match="not a path"):
        await connect().get("https://elsewhere.example.com")


# The circuit breaker, as docs/upstreams.md shows it.


def breaker_table() -> list[list[str]]:
    page = (ROOT / "docs/upstreams.md").read_text()
    rows = re.findall(r"(?m)^\| (closed|open|half-open) \| (.+) \| (.+) \| (\d+) \|$", page)
    assert len(rows) > 10
    return [list(map(str.strip, row)) for row in rows]


@pytest.mark.parametrize(("before", "events", "after", "requests"), breaker_table())
async def test_the_circuit_breaker_does_what_its_table_says(
    peer: Peer, connect: Connect, before: str, events: str, after: str, requests: str
) -> None:
    now = 1000.0
    billing = connect(breaker_window=4, breaker_probes=2, retries=0, max_concurrency=1)
    billing.breaker._clock = lambda: now
    if before != "closed":
        peer.will("500", "500")
        for _ in range(2):
            await error_of(billing.get("/"))
    if before == "half-open":
        now += billing.policy.breaker_reset
    seen = len(peer.requests)
    for event in events.split(", "):
        if event == "time passes":
            now += billing.policy.breaker_reset
            continue
        await happen(event, peer, billing)
    assert billing.breaker.state.replace("_", "-") == after
    assert len(peer.requests) - seen == int(requests)


async def happen(event: str, peer: Peer, billing: Upstream) -> None:
    billing._timeout = httpx2.Timeout(30, read=0.02 if event == "hang" else 30)
    if event == "cancelled":
        peer.will("hang")
        seen = len(peer.requests)
        task = asyncio.create_task(billing.get("/"))
        await until(lambda: len(peer.requests) > seen)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    else:
        peer.will(event)
        with suppress(UpstreamError):
            await billing.get("/")


async def test_a_half_open_circuit_lets_no_more_than_its_probes_through(
    peer: Peer, connect: Connect
) -> None:
    now = 1000.0
    billing = connect(breaker_window=1, breaker_probes=2, retries=0)
    billing.breaker._clock = lambda: now
    peer.will("500")
    await error_of(billing.get("/"))
    now += billing.policy.breaker_reset
    peer.will(otherwise="hang")
    probes = [asyncio.create_task(billing.get("/")) for _ in range(2)]
    await until(lambda: len(peer.requests) == 3)
    error = await error_of(billing.get("/"))
    assert (error.reason, len(peer.requests)) == ("circuit_open", 3)
    for probe in probes:
        probe.cancel()
    await asyncio.gather(*probes, return_exceptions=True)
    peer.will(otherwise="200")
    await asyncio.gather(billing.get("/"), billing.get("/"))  # cancelled ones free their places
    assert billing.breaker.state == "closed"


# In a service: settings, requests, jobs, readiness, metrics, logs.


@pytest.fixture(autouse=True)
def _no_declarations_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "_declared", {})


@asynccontextmanager
async def service_with(settings: Settings, peer: Peer, **policy: float) -> AsyncIterator[Any]:
    """A service with a route that calls the peer, and the upstream's definition."""
    billing = upstream("billing", base_url=peer.url, **policy)

    async def call(billing: Annotated[Upstream, Depends(billing)]) -> int:
        return (await billing.get("/")).status_code

    async with running_platform(settings) as app:
        app.add_api_route("/call", call)
        async with client_for(app) as client:
            yield app, client, billing


async def test_an_outage_is_a_problem_a_degraded_service_a_metric_and_one_line_of_the_log_a_change(
    settings: Settings, peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    policy = {"breaker_window": 2, "breaker_probes": 1, "retries": 0}
    async with service_with(settings, peer, **policy) as (app, client, billing):
        breaker = billing.of(app.state.http).breaker
        breaker._clock = lambda: now
        peer.will(otherwise="500")
        answers = [await client.get("/call")]
        health = (await client.get("/health/ready")).json()
        assert health["status"] == "degraded"
        assert health["checks"]["upstream_billing"]["error"] == "CircuitOpen"
        answers += [await client.get("/call") for _ in range(5)]
        scraped = (await client.get("/metrics")).text
        assert 'upstream_breaker_state{upstream="billing"} 2.0' in scraped
        assert 'upstream_rejections_total{reason="circuit_open",upstream="billing"}' in scraped
        assert 'outcome="failed",upstream="billing"} 1.0' in scraped

        peer.will(otherwise="200")
        now += 10
        assert (await client.get("/call")).json() == 200
        assert breaker.state == "closed"
    assert [answer.status_code for answer in answers] == [502, 503, 503, 503, 503, 503]
    assert answers[0].json()["code"] == "bad_gateway"
    assert answers[0].json()["detail"] == "The upstream billing failed."
    assert int(answers[1].headers["Retry-After"]) >= 1
    lines = [line for line in capfd.readouterr().out.splitlines() if "data.upstreams" in line]
    states = [re.findall(r'"state":"(\w+)"', line) for line in lines]
    assert states == [["open"], ["half_open"], ["closed"]]


async def test_jobs_and_start_up_call_an_upstream_as_requests_do(
    settings: Settings, peer: Peer
) -> None:
    async with service_with(settings, peer) as (app, _, billing):
        job = JobContext(app, uuid4(), "charge", 1, lambda _: None, lambda _: None)  # type: ignore[arg-type,return-value]
        assert billing.of(job.http) is billing.of(app.state.http)
        assert (await billing.of(job.http).get("/")).status_code == 200


async def test_the_environment_overrides_what_the_code_says(
    settings: Settings, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAMS__BILLING__TIMEOUT", "1.5")
    monkeypatch.setenv("UPSTREAMS__BILLING__BASE_URL", f"{peer.url}/v2/")
    changed = Settings(**settings.model_dump(exclude={"upstreams"}))
    async with service_with(changed, peer, timeout=9, retries=4) as (app, client, billing):
        policy = billing.of(app.state.http).policy
        assert (policy.timeout, policy.retries) == (1.5, 4)
        assert (await client.get("/call")).json() == 200
    assert b"get /v2/ http" in peer.requests[0]


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("UPSTREAMS__BILLING__TIMEOUT", "-1", "greater than 0"),
        ("UPSTREAMS__BILLING__TIMEOUTS", "1", "Extra inputs"),
        ("UPSTREAMS__BILLING__BASE_URL", "billing.internal", "write it as https://"),
        ("UPSTREAMS__BILLING__BASE_URL", "https://a:b@billing.internal", "without credentials"),
    ],
)
def test_invalid_overrides_are_refused_by_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    from app.platform.settings import SettingsError, load_settings

    for name in ("secret_key", "database_url", "redis_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name).get_secret_value())
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"{variable}: .*{reason}"):
        load_settings(Settings)


async def test_overrides_of_an_upstream_that_nothing_declares_are_refused(
    settings: Settings, peer: Peer
) -> None:
    from app.platform.settings import SettingsError

    changed = Settings(
        **settings.model_dump(exclude={"upstreams"}), upstreams={"biling": {"timeout": 1}}
    )
    with pytest.raises(SettingsError, match="nothing declares biling; declared are: billing"):
        async with service_with(changed, peer):
            pass


def test_an_upstream_is_declared_once_and_its_policy_checked_at_once() -> None:
    upstream("billing", base_url="https://billing.internal")
    with pytest.raises(ValueError, match="declared twice"):
        upstream("billing", base_url="https://billing.internal")
    with pytest.raises(ValueError, match="greater than 0"):
        upstream("other", base_url="https://billing.internal", timeout=0)
