"""Spans that nobody takes cost requests nothing, and counters stay right whatever workers do."""

import asyncio
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from app.platform.observability import metrics
from tests.fire._wire import KeepAliveClient, children, request, resident
from tests.fire.conftest import FULL, Note
from tests.platform.observability.tracing.receiver import Collector
from tests.system.conftest import serve
from tests.system.serving import Serve, Server

__all__ = ["serve"]

ROUNDS = 200 if FULL else 12
BATCH_SIZE = 50
COUNT = f"{metrics.DURATION}_count"
ASKED = '{method="GET",route="/test/pid",status="200"}'


class Slow(Collector):
    """A collector that can take its time."""

    delay = 0.0

    def receive(self, handler: object) -> None:
        time.sleep(self.delay)
        super().receive(handler)  # type: ignore[arg-type]

    def away(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collectors() -> Iterator[tuple[Slow, Slow]]:
    both = (Slow(), Slow())
    yield both
    for collector in both:
        collector.released.set()
        collector.away()


def bring_about(trouble: str, collector: Slow) -> None:
    """Change what a collector does with spans."""
    collector.delay = 3.0 if trouble == "slow" else 0.0
    collector.status = {"has no time": 503, "refuses": 401}.get(trouble, 200)
    if trouble == "hangs":
        collector.hangs.set()
    else:
        collector.hangs.clear()
        collector.released.set()
    if trouble == "away":
        collector.away()


async def batch(caller: KeepAliveClient) -> list[float]:
    """Ask for a while; return how long each answer took, in milliseconds."""
    taken = []
    for _ in range(BATCH_SIZE):
        started = time.perf_counter()
        assert await caller.send(request("GET", "/test/pid")) == 200
        taken.append((time.perf_counter() - started) * 1000)
    return taken


async def compare(healthy: KeepAliveClient, troubled: KeepAliveClient) -> tuple[float, float]:
    """Ask both in turns, so that a busy machine is as busy for both; return the usual times."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        times[0].extend(await batch(healthy))
        times[1].extend(await batch(troubled))
    return median(times[0]), median(times[1])


async def test_a_collector_in_trouble_costs_neither_time_nor_memory(
    serve: Serve, collectors: tuple[Slow, Slow], note: Note
) -> None:
    """Every request is traced. Each trouble lasts for thousands of spans at full size."""
    servers = [
        serve(
            WEB_CONCURRENCY="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_TRACES_SAMPLER_ARG="1",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        for collector in collectors
    ]
    [healthy], [troubled] = (children(server.process.pid) for server in servers)
    ratios = {}
    async with KeepAliveClient(servers[0]) as one, KeepAliveClient(servers[1]) as other:
        await compare(one, other)
        for trouble in ("slow", "hangs", "has no time", "refuses", "away"):
            bring_about(trouble, collectors[1])
            usual, then = await compare(one, other)
            ratios[trouble] = round(then / usual, 2)
    more = resident(troubled) - resident(healthy)
    note(requests=ROUNDS * BATCH_SIZE * 12, ratios=ratios, megabytes_more=round(more, 1))
    assert max(ratios.values()) < 2, ratios
    assert more < 25
    for server in servers:
        assert server.stop() == 0
        assert len([line for line in server.lines() if line["level"] == "error"]) < 12


class Load:
    """Requests all the time, and what became of them."""

    def __init__(self, server: Server, path: str = "/test/pid") -> None:
        self.server, self.path = server, path
        self.sent = self.answered = 0
        self.stopped = False

    async def one(self) -> None:
        async with KeepAliveClient(self.server) as caller:
            while not self.stopped:
                self.sent += 1
                try:
                    assert await caller.send(request("GET", self.path)) == 200
                    self.answered += 1
                except (OSError, EOFError):
                    await asyncio.sleep(0.02)


async def scrape(server: Server) -> dict[str, float]:
    """Return every sample, by its name and labels as they are written."""
    async with KeepAliveClient(server) as caller:
        while True:
            try:
                assert await caller.send(request("GET", "/metrics")) == 200
                break
            except (OSError, EOFError):
                await asyncio.sleep(0.02)
    return {
        sample.name
        + "{"
        + ",".join(f'{name}="{of}"' for name, of in sorted(sample.labels.items()))
        + "}": sample.value
        for family in parse(caller.body.decode())
        for sample in family.samples
    }


async def watch(load: Load, seen: list[dict[str, float]], until: float) -> None:
    while time.monotonic() < until:
        seen.append(await scrape(load.server))
        await asyncio.sleep(0.1)


def counts_that_fell(seen: list[dict[str, float]]) -> list[str]:
    """Name the counters that were lower than before, or gone."""
    return [
        name
        for before, after in pairwise(seen)
        for name in before
        if name.startswith(metrics.DURATION) and after.get(name, -1) < before[name]
    ]


async def settled(server: Server) -> float:
    """Return how many requests were counted, once all are."""
    last = -1.0
    while (now := (await scrape(server)).get(COUNT + ASKED, 0.0)) != last:
        last = now
        await asyncio.sleep(1)
    return now


async def test_counters_never_fall_and_count_each_request_once(serve: Serve, note: Note) -> None:
    """Under load, while workers are replaced after some hundred requests, then while some die.

    A worker that is killed takes what it had not written down yet along, 256 requests at most.
    """
    server = serve(GUNICORN_CMD_ARGS="--max-requests 400 --max-requests-jitter 200")
    seconds, kills = (60, 8) if FULL else (6, 2)
    load = Load(server)
    seen: list[dict[str, float]] = []
    callers = [asyncio.create_task(load.one()) for _ in range(4)]
    first = set(children(server.process.pid))
    await watch(load, seen, time.monotonic() + seconds)
    while set(children(server.process.pid)) & first:  # each was replaced once, at least
        await watch(load, seen, time.monotonic() + 1)
    load.stopped = True
    await asyncio.gather(*callers)
    counted = await settled(server)
    assert load.answered <= counted <= load.sent
    assert not counts_that_fell(seen)

    load.stopped = False
    callers = [asyncio.create_task(load.one()) for _ in range(4)]
    for _ in range(kills):
        await watch(load, seen, time.monotonic() + seconds / kills)
        os.kill(random.choice(children(server.process.pid)), signal.SIGKILL)
    await watch(load, seen, time.monotonic() + 1)
    load.stopped = True
    await asyncio.gather(*callers)
    counted = await settled(server)
    note(
        requests=load.sent,
        counted=int(counted),
        scrapes=len(seen),
        workers_killed=kills,
        counts_that_fell=len(counts_that_fell(seen)),
    )
    assert load.answered - kills * 256 <= counted <= load.sent
    assert not counts_that_fell(seen)


async def test_strangers_make_no_series_of_their_own(serve: Serve, note: Note) -> None:
    server = serve(RATE_LIMIT="off")
    methods = ["GET", "POST", "PUT", "DELETE", "TRACE", "PROPFIND", "LINK", "M-SEARCH", "SOURCE"]
    sizes = []
    requests = 20_000 if FULL else 1_500
    async with KeepAliveClient(server) as caller:
        for share in (200, requests):
            for number in range(share):
                path = f"/{'api/v1/' * (number % 2)}{secrets.token_hex(8)}"
                assert await caller.send(request(methods[number % len(methods)], path)) == 404
            await asyncio.sleep(1)  # until it is written down
            sizes.append(len([name for name in await scrape(server) if _counts(name)]))
    note(requests=requests, series=sizes[1])
    assert sizes[1] == sizes[0] == 5  # GET, POST, PUT, DELETE, other
    assert server.stop() == 0


def _counts(name: str) -> bool:
    return name.startswith(COUNT) and f'route="{metrics.UNMATCHED}"' in name
