"""Metrics: labels, sums and exemplars."""

import asyncio
import gc
import re
import sys
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI, Form
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import text

from app.platform.base import context
from app.platform.http import routing
from app.platform.observability import metrics
from app.settings import Settings
from tests.conftest import ROOT, client_for, running_platform

COUNT = f"{metrics.DURATION}_count"


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(settings) as app:

        async def show(thing: str) -> str:
            return thing

        async def fill_in(thing: str, name: str = Form()) -> str:
            return thing

        app.add_api_route("/things/{thing}", show)
        app.add_api_route("/forms/{thing}", fill_in, methods=["POST"])
        routing.install_index(app)
        yield app


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


async def scrape(client: httpx2.AsyncClient) -> dict[tuple[str, frozenset[str]], float]:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_method_and_status(client: httpx2.AsyncClient) -> None:
    for path in ("/things/1", "/things/2", "/nowhere/1", "/nowhere/2"):
        await client.get(path)
    await client.delete("/things/1")
    await client.post("/forms/1", data={"name": "x"})
    await client.request("BREW", "/things/1")
    found = await scrape(client)
    assert found[COUNT, frozenset({"GET", "/things/{thing}", "200"})] == 2
    assert found[COUNT, frozenset({"GET", "unmatched", "404"})] == 2
    assert found[COUNT, frozenset({"POST", "/forms/{thing}", "200"})] == 1
    assert found[COUNT, frozenset({"DELETE", "/things/{thing}", "405"})] == 1
    assert found[COUNT, frozenset({"other", "/things/{thing}", "405"})] == 1
    assert not [name for name in found if "/things/1" in name[1]]


async def test_build_info_pool_and_in_flight_requests_are_reported(
    client: httpx2.AsyncClient, service: FastAPI, settings: Settings
) -> None:
    await service.state.readiness.checks()  # those that the last scrape left running have ended
    async with service.state.db.transaction() as session:
        await session.execute(text("SELECT 1"))
        found = {name: value for (name, _), value in (await scrape(client)).items()}
    assert found["build_info"] == 1
    assert found["db_pool_connections_used"] == 1
    assert found["db_pool_connections"] == settings.db_pool_size + settings.db_max_overflow
    assert found["db_pool_waiting"] == found["db_pool_exhausted_seconds"] == 0
    assert found["http_server_active_requests"] == 1  # this one


async def test_the_process_reports_what_it_uses(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    gc.collect()
    found = {name: value for (name, _), value in (await scrape(client)).items()}
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_threads"] >= 1
    assert found["process_max_fds"] >= 256
    assert found["python_gc_pause_seconds_count"] >= 1
    assert found["redis_pool_connections"] == settings.redis_max_connections
    assert found["http_pool_connections"] == settings.http_max_connections
    if sys.platform == "linux":
        assert 10_000_000 < found["process_resident_memory_bytes"] < 2_000_000_000
        assert 3 < found["process_open_fds"] < found["process_max_fds"]


async def test_connections_in_use_are_counted(client: httpx2.AsyncClient, service: FastAPI) -> None:
    async def used() -> tuple[float, float]:
        found = {name: value for (name, _), value in (await scrape(client)).items()}
        return found["redis_pool_connections_used"], found["http_pool_connections_used"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n")
        writer.close()

    assert await used() == (0, 0)
    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            service.state.redis.pubsub() as pubsub,
            service.state.http.stream("GET", f"http://127.0.0.1:{port}/"),
        ):
            await pubsub.subscribe("anything")
            assert await used() == (1, 1)
        assert await used() == (0, 0)


async def test_a_pool_without_a_free_connection_shows_in_the_metric_of_its_alert(
    settings: Settings,
) -> None:
    alerts = (ROOT / "compose/rules/service.yml").read_text()
    metric = re.findall(r"expr: max by \(namespace, job, instance\) \((\w+)\) > 60", alerts)[0]
    one = settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0})

    async def values(own: httpx2.AsyncClient) -> tuple[float, float]:
        found = {name: value for (name, _), value in (await scrape(own)).items()}
        return found[metric], found["db_pool_waiting"]

    async with running_platform(one) as app, client_for(app) as own:
        app.state.metric_sources.clear()  # the backlog of jobs would wait for a connection
        assert await values(own) == (0, 0)
        async with app.state.db.transaction() as session:
            await session.execute(text("SELECT 1"))
            with context.bind_request_context():
                reader = asyncio.create_task(app.state.db.execute(text("SELECT 1")))
            await asyncio.sleep(0.01)
            exhausted, waiting = await values(own)
            assert 0 < exhausted < 60
            assert waiting == 1
        await reader
        assert await values(own) == (0, 0)


async def test_blocking_the_event_loop_shows_as_lag(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    import time

    monkeypatch.setattr(metrics, "SAMPLE_INTERVAL", 0.1)
    lags = []
    async with running_platform(settings) as app, client_for(app) as own:
        for _ in range(20):  # the scrape may come after the next sample, which is smaller
            await asyncio.sleep(0.05)
            time.sleep(0.4)  # noqa: ASYNC251 (the blocking call under test)
            await asyncio.sleep(0.01)
            found = {name: value for (name, _), value in (await scrape(own)).items()}
            lags.append(found["event_loop_lag_seconds"])
            if lags[-1] > 0.2:
                break
    assert 0.2 < lags[-1] < 2


async def test_a_bucket_has_a_trace_as_its_exemplar(
    client: httpx2.AsyncClient, service: FastAPI
) -> None:
    service.state.metrics.observe("GET", "/things/{thing}", 200, 0.06, "a" * 32)
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    [family] = [f for f in parse_openmetrics(response.text) if f.name == metrics.DURATION]
    [bucket] = [sample for sample in family.samples if sample.exemplar]
    assert bucket.labels["le"] == "0.075"
    assert bucket.exemplar.labels == {"trace_id": "a" * 32}
    assert bucket.exemplar.value == 0.06


async def test_unmatched_requests_have_exemplars_too(
    client: httpx2.AsyncClient, service: FastAPI
) -> None:
    service.state.metrics.observe("BREW", "", 404, 0.06, "b" * 32)
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    [family] = [f for f in parse_openmetrics(response.text) if f.name == metrics.DURATION]
    shown = [s for s in family.samples if s.exemplar and s.exemplar.labels["trace_id"] == "b" * 32]
    assert [(s.labels["method"], s.labels["route"]) for s in shown] == [("other", "unmatched")]


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=x.y", "text/plain;version=1.x", ";=,;version"]
)
async def test_a_scrape_succeeds_with_a_malformed_accept_header(
    client: httpx2.AsyncClient, accept: str
) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert "build_info" in response.text


async def test_a_component_adds_metrics_and_a_failing_source_affects_no_other(
    client: httpx2.AsyncClient, service: FastAPI
) -> None:
    async def depth() -> Iterable[Metric]:
        metric = GaugeMetricFamily("queue_depth", "Jobs in the queue.")
        metric.add_metric([], 7)
        return [metric]

    async def broken() -> Iterable[Metric]:
        raise ConnectionError

    metrics.register(service, "queue", depth)
    metrics.register(service, "broken", broken)
    found = await scrape(client)
    assert found["queue_depth", frozenset()] == 7
    assert found["build_info", next(labels for name, labels in found if name == "build_info")] == 1


async def test_a_source_is_asked_again_after_its_ttl(
    client: httpx2.AsyncClient, service: FastAPI
) -> None:
    calls = dict.fromkeys(("always_asked", "asked_once"), 0)

    async def count(name: str) -> Iterable[Metric]:
        calls[name] += 1
        return [GaugeMetricFamily(name, "Calls of the source.", value=calls[name])]

    metrics.register(service, "a", partial(count, "always_asked"))
    metrics.register(service, "b", partial(count, "asked_once"), ttl=3600)
    await scrape(client)
    found = await scrape(client)
    assert found["always_asked", frozenset()] == 2
    assert found["asked_once", frozenset()] == 1


async def test_a_source_that_fails_keeps_its_last_metrics_and_says_so(
    client: httpx2.AsyncClient, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Exception | float] = [ConnectionError(), 7.0, ConnectionError(), 8.0]

    async def depth() -> Iterable[Metric]:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return [GaugeMetricFamily("queue_depth", "Jobs in the queue.", value=outcome)]

    async def state() -> list[float | None]:
        found = await scrape(client)
        source = frozenset({"queue"})
        succeeded_at.append(found.get(("metric_source_last_success_timestamp_seconds", source)))
        return [found["metric_source_up", source], found.get(("queue_depth", frozenset()))]

    succeeded_at: list[float | None] = []
    metrics.register(service, "queue", depth)
    assert [await state() for _ in range(4)] == [[0, None], [1, 7], [0, 7], [1, 8]]
    never, first, kept, second = succeeded_at
    assert never is None
    assert first
    assert second
    assert first == kept < second
    monkeypatch.setattr(metrics, "KEEP_FOR", 0)
    outcomes.append(ConnectionError())
    assert await state() == [0, None]


async def test_metrics_can_have_a_separate_port(settings: Settings) -> None:
    async with running_platform(settings.model_copy(update={"metrics_port": 9100})) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport) as client:
            assert (await client.get("http://test:80/metrics")).status_code == 404
            assert (await client.get("http://test:80/health/live")).status_code == 200
            assert (await client.get("http://test:9100/metrics")).status_code == 200
            assert (await client.get("http://test:9100/health/live")).status_code == 404


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_outside_of_workers_metrics_are_kept_in_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.delenv("WORKER_SLOT", raising=False)
    async with running_platform(settings) as app, client_for(app) as client:
        await client.get("/health/live")

        assert (COUNT, frozenset({"GET", "/health/live", "200"})) in await scrape(client)
    assert files(tmp_path) == []
