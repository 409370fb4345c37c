"""Prometheus metrics: rate, errors and duration per route, and the saturation of this process.

Under Gunicorn each worker writes its own metric files, and the scraped worker aggregates all of
them. Other components add metrics with ``register``, and with ``telemetry``.
"""

import asyncio
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Gauge, Histogram, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform import about
from app.platform.base.components import Lifespan
from app.platform.base.paths import route_path
from app.platform.base.tasks import cancel
from app.platform.observability import telemetry
from app.platform.observability.telemetry import BUCKETS
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

PATH = "/metrics"
OPENMETRICS = "application/openmetrics-text"
DURATION = "http_server_request_duration_seconds"
# The label of requests without a route: a scanner must not create a series for each path.
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SAMPLE_INTERVAL = 1.0  # seconds between samples of the event loop and the pools
SOURCE_TIMEOUT = 2.0  # seconds for one source of metrics
# Seconds for which the metrics of a source that fails are reported: an alert on them that fires
# must not end meanwhile. A day: MetricSourceDown is a ticket, which waits for the morning.
KEEP_FOR = 86_400.0

MetricSource = Callable[[], Awaitable[Iterable[Metric]]]
Labels = tuple[str, str, int]


class Metrics:
    """The metrics of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._durations = Histogram(
            DURATION,
            "Duration of requests, until the last byte of the response.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._children: dict[Labels, Histogram] = {}
        self._exemplars: dict[tuple[str, str, str, float], Exemplar] = {}
        self.in_flight = self._gauge("http_server_active_requests", "Requests in flight.")
        self.websockets = self._gauge("websockets", "Open WebSockets.")
        self.lag = self._gauge(
            "event_loop_lag_seconds", "Delay of the event loop at the last sample.", "livemax"
        )
        self.pool_size = self._gauge("db_pool_connections", "Maximum connections of the pools.")
        self.pool_used = self._gauge("db_pool_connections_used", "Connections in use.")
        self.pool_waiting = self._gauge(
            "db_pool_waiting", "Requests and jobs that wait for a connection."
        )
        self.pool_exhausted = self._gauge(
            "db_pool_exhausted_seconds",
            "Seconds since a connection was free, in the process where it was longest ago.",
            "livemax",
        )

    def _gauge(
        self, name: str, text: str, mode: Literal["livesum", "livemax"] = "livesum"
    ) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode=mode)

    def observe(
        self, method: str, route: str, status: int, seconds: float, trace_id: str = ""
    ) -> None:
        """Record a request; ``trace_id``, if it was traced, becomes the exemplar of its bucket."""
        labels = (method, route, status)
        child = self._children.get(labels)
        if child is None:
            child = self._child(labels)
        child.observe(seconds)
        if trace_id:
            bucket = next((bound for bound in BUCKETS if seconds <= bound), float("inf"))
            exemplar = Exemplar({"trace_id": trace_id}, seconds, time.time())
            self._exemplars[*_label_values(labels), bucket] = exemplar

    def _child(self, labels: Labels) -> Histogram:
        child = self._durations.labels(*_label_values(labels))
        if labels[0] in METHODS:
            self._children[labels] = child
        return child

    def collect(self) -> Iterator[Metric]:
        """The metrics of all workers, with the exemplars of this one."""
        directory = os.environ["PROMETHEUS_MULTIPROC_DIR"] if "WORKER_SLOT" in os.environ else None
        for metric in self._collector(directory).collect():
            if metric.name == DURATION:
                metric.samples = [self._with_exemplar(sample) for sample in metric.samples]
            yield metric

    def _collector(self, directory: str | None) -> Collector:
        if directory is None:
            return self.registry
        return MultiProcessCollector(None, directory)  # type: ignore[no-untyped-call]

    def _with_exemplar(self, sample: Sample) -> Sample:
        if "le" not in sample.labels:
            return sample
        labels = sample.labels
        key = (labels["method"], labels["route"], labels["status"], float(labels["le"]))
        return sample._replace(exemplar=self._exemplars.get(key))


def _label_values(labels: Labels) -> tuple[str, str, str]:
    method, route, status = labels
    return method if method in METHODS else "other", route or UNMATCHED, str(status)


class CollectedMetrics:
    """The metrics of one scrape, as a collector for the encoders."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


class RegisteredSource:
    """A source of metrics, and what it returned last.

    ``up``: whether the last call succeeded. ``succeeded_at``: when one did last, as a Unix time.
    """

    def __init__(self, name: str, source: MetricSource, ttl: float) -> None:
        self.name = name
        self.up = False
        self.succeeded_at: float | None = None
        self._source = source
        self._ttl = ttl
        self._metrics: Iterable[Metric] = ()
        self._expires_at = 0.0

    async def collect(self) -> Iterable[Metric]:
        if time.monotonic() >= self._expires_at:
            await self._update()
        kept = self.up or time.time() - (self.succeeded_at or 0) < KEEP_FOR
        return self._metrics if kept else ()

    async def _update(self) -> None:
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT):
                self._metrics = [*await self._source()]
        except Exception as error:  # noqa: BLE001 (the other metrics are worth having)
            self.up = False
            reason = type(error).__name__
            logger.warning("metric source %s failed: %s: %s", self.name, reason, error)
        else:
            self.up = True
            self.succeeded_at = time.time()
            self._expires_at = time.monotonic() + self._ttl


def register(app: FastAPI, name: str, source: MetricSource, *, ttl: float = 0) -> None:
    """Add a source of metrics that no process knows alone, such as the depth of a queue.

    It is called at each scrape, but not within ``ttl`` seconds of its last success. If it fails, or
    takes over 2 seconds, ``metric_source_up`` is 0, and for a day the scrape has its last metrics.
    """
    app.state.metric_sources.append(RegisteredSource(name, source, ttl))


def on_sample(app: FastAPI, sample: Callable[[], None]) -> None:
    """Call ``sample`` every second and at each scrape, to set gauges of this process."""
    app.state.samplers.append(sample)


def _source_states(sources: Iterable[RegisteredSource]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "metric_source_up",
        "Whether a source of metrics succeeds; if not, its metrics are the last ones.",
        labels=["source"],
    )
    succeeded = GaugeMetricFamily(
        "metric_source_last_success_timestamp_seconds",
        "When a source of metrics succeeded last, as a Unix time.",
        labels=["source"],
    )
    for source in sources:
        up.add_metric([source.name], source.up)
        if source.succeeded_at is not None:
            succeeded.add_metric([source.name], source.succeeded_at)
    yield from (up, succeeded)


def _build_info() -> Metric:
    metric = GaugeMetricFamily(
        "build_info", "Versions of the service and of Python.", labels=["version", "python"]
    )
    metric.add_metric([about.version(), platform.python_version()], 1)
    return metric


async def scrape(request: Request) -> Response:
    """The metrics for Prometheus, as OpenMetrics (with exemplars) if it accepts that."""
    state = request.app.state
    state.access_log.flush()
    _sample_gauges(request.app)
    sources = state.metric_sources
    async with asyncio.TaskGroup() as group:  # if cancelled, it waits for their end
        tasks = [group.create_task(source.collect()) for source in sources]
    added = [*_source_states(sources), *(metric for task in tasks for metric in task.result())]
    collected = CollectedMetrics([_build_info(), *state.metrics.collect(), *added])
    # Only whether it accepts OpenMetrics: the library fails on unknown versions.
    accepted = OPENMETRICS if OPENMETRICS in request.headers.get("accept", "") else ""
    encoder, content_type = choose_encoder(accepted)
    return Response(encoder(collected), headers={"content-type": content_type})


def _sample_gauges(app: FastAPI) -> None:
    """Set the gauges that are sampled."""
    state = app.state
    state.metrics.in_flight.set(len(state.in_flight))
    state.metrics.websockets.set(len(state.websockets))
    pools = [state.db, state.replica.database] if state.replica else [state.db]
    state.metrics.pool_used.set(sum(pool.used for pool in pools))
    state.metrics.pool_size.set(sum(pool.max_connections for pool in pools))
    state.metrics.pool_waiting.set(sum(pool.waiting for pool in pools))
    state.metrics.pool_exhausted.set(max(pool.exhausted_seconds for pool in pools))
    for sample in state.samplers:
        sample()


async def _sample_periodically(app: FastAPI) -> None:
    """Sample the gauges, and how late the event loop wakes up: blocking code shows here."""
    while True:
        due = time.monotonic() + SAMPLE_INTERVAL
        await asyncio.sleep(SAMPLE_INTERVAL)
        app.state.metrics.lag.set(max(0.0, time.monotonic() - due))
        _sample_gauges(app)


class SeparatePort:
    """Serves /metrics on its own port, and nothing else there."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            here = (scope.get("server") or ("", 0))[1] == self.port
            if here != (route_path(scope) == PATH):
                await Response(status_code=404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.state.metric_sources = []
    app.state.samplers = []
    app.add_route(PATH, scrape, include_in_schema=False)
    if settings.metrics_port:
        app.add_middleware(SeparatePort, port=settings.metrics_port)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        values.ValueClass = values.MutexValue  # in other processes, whatever the environment says
        if slot := os.environ.get("WORKER_SLOT"):
            # A worker continues the files of the one that it replaces, so that they do not pile up.
            values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        app.state.metrics = Metrics()
        with telemetry.bound_to(app.state.metrics.registry):
            sampler = asyncio.create_task(_sample_periodically(app))
            try:
                yield
            finally:
                await cancel(sampler)

    return lifespan
