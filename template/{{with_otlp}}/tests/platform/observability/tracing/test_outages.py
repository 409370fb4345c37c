"""A collector that is unavailable, hangs or refuses: requests and memory are unaffected."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.platform.observability import tracing
from app.settings import Settings
from tests.conftest import client_for
from tests.platform.observability.tracing.receiver import Collector, get, traced

QUEUE, BATCH, REQUESTS = 64, 16, 300
OUTAGES = ("unavailable", "hangs", "overloaded", "refuses")


def cause(outage: str, collector: Collector) -> str:
    """Cause the outage; return the endpoint to use."""
    if outage == "hangs":
        collector.hangs.set()
    collector.status = {"overloaded": 503, "refuses": 401}.get(outage, 200)
    return "http://127.0.0.1:9" if outage == "unavailable" else collector.url


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(QUEUE))
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")


@contextmanager
def captured_log() -> Iterator[list[logging.LogRecord]]:
    """The records of the standard library's ``logging``."""
    written: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = written.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_delays_no_request_and_does_not_flood_the_log(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch, outage: str
) -> None:
    """If one request in ten waited for its export, the time limit would not suffice."""
    monkeypatch.setattr(tracing, "SHUTDOWN_TIMEOUT", 0.2)
    async with traced(settings, cause(outage, collector)) as app:
        with captured_log() as written:
            started = time.monotonic()
            async with client_for(app) as client:
                for _ in range(REQUESTS):
                    assert (await client.get("/nowhere")).status_code == 404
            assert time.monotonic() - started < 60
            ended = time.monotonic()
    assert time.monotonic() - ended < 30
    messages = [record.msg for record in written if record.name.startswith("opentelemetry")]
    assert len(set(messages)) == len(messages)
    assert collector.spans == []


async def test_spans_beyond_the_queue_size_are_dropped(
    settings: Settings, collector: Collector
) -> None:
    collector.hangs.set()
    async with traced(settings, collector.url) as app:
        async with client_for(app) as client:
            for _ in range(REQUESTS):
                await client.get("/nowhere")
        collector.hangs.clear()
        collector.released.set()
    assert 0 < len(collector.spans) <= QUEUE + BATCH


async def test_a_hanging_collector_does_not_delay_the_exit(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.hangs.set()
    monkeypatch.setattr(tracing, "SHUTDOWN_TIMEOUT", 0.5)
    async with traced(settings, collector.url) as app:
        await get(app, "/nowhere")
        started = time.monotonic()
    assert time.monotonic() - started < 3
