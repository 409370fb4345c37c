"""Who takes the spans is away, slow, or refuses: requests do not notice, and memory is bounded."""

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
OUTAGES = ("away", "hangs", "has no time", "refuses")


def place(collector: Collector, outage: str) -> str:
    """Bring the outage about; return where spans are to be sent."""
    if outage == "hangs":
        collector.hangs.set()
    collector.status = {"has no time": 503, "refuses": 401}.get(outage, 200)
    return "http://127.0.0.1:9" if outage == "away" else collector.url


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(QUEUE))
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")


@contextmanager
def log() -> Iterator[list[logging.LogRecord]]:
    """Yield what is logged by way of the standard library."""
    written: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = written.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_costs_neither_requests_nor_the_log(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch, outage: str
) -> None:
    """Were a request to wait for one export in ten, the time would not do."""
    monkeypatch.setattr(tracing, "SHUTDOWN_TIMEOUT", 1.0)
    async with traced(settings, place(collector, outage)) as app:
        with log() as written:
            started = time.monotonic()
            async with client_for(app) as client:
                for _ in range(REQUESTS):
                    assert (await client.get("/nowhere")).status_code == 404
            assert time.monotonic() - started < 60
            ended = time.monotonic()
    assert time.monotonic() - ended < 30
    theirs = [record.msg for record in written if record.name.startswith("opentelemetry")]
    assert len(set(theirs)) == len(theirs)
    assert collector.spans == []


async def test_spans_that_nobody_takes_are_thrown_away(
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


async def test_a_collector_that_hangs_does_not_hold_up_the_exit(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.hangs.set()
    monkeypatch.setattr(tracing, "SHUTDOWN_TIMEOUT", 0.5)
    async with traced(settings, collector.url) as app:
        await get(app, "/nowhere")
        started = time.monotonic()
    assert time.monotonic() - started < 3
