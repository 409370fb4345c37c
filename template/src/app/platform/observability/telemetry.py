"""Metrics and spans of your own: declared once, in any module, correct with several workers.

A metric exists from its declaration, and counts while the service runs; in a command or a test
without the service its methods do nothing.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from app.platform.observability import tracing
from app.platform.observability.logs import get_logger

# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserverrequestduration
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
# Of Prometheus itself, and of the files in which workers keep their values.
RESERVED_LABELS = frozenset({"le", "quantile", "job", "instance", "pid"})
# Prometheus counts in base units, and adds suffixes of its own to a histogram.
NO_UNITS = ("_total", "_count", "_sum", "_bucket", "_ms", "_milliseconds", "_minutes")
# Combinations of label values per metric and process. Each is a series for as long as the process
# lives, so that a label with the values of callers would fill the memory.
MAX_SERIES = 500
OTHER = "other"

Across = Literal["sum", "max", "min"]
AttributeValue = str | bool | int | float
M = TypeVar("M", bound=MetricWrapperBase)

logger = get_logger(__name__)


class Metric(Generic[M]):
    """A metric of this service; ``labels``: the names of its labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        _check(name, text, labels)
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self._bound: M | None = None
        self._children: dict[tuple[str, ...], M] = {}
        _declared[name] = self
        if _registry is not None:
            self._bind(_registry)

    def _create(self, registry: CollectorRegistry) -> M:
        raise NotImplementedError

    def _bind(self, registry: CollectorRegistry) -> None:
        self._bound, self._children = self._create(registry), {}

    def _child(self, labels: Mapping[str, str]) -> M | None:
        """The series of these label values; ``None`` while no service runs."""
        if labels.keys() != set(self.labels):
            needs = ", ".join(self.labels) or "none"
            given = ", ".join(labels) or "none"
            raise ValueError(f"{self.name} has the labels: {needs}. Given: {given}.")
        if self._bound is None or not self.labels:
            return self._bound
        values = tuple(str(labels[name]) for name in self.labels)
        if (child := self._children.get(values)) is None:
            child = self._new_child(self._bound, values)
        return child

    def _new_child(self, metric: M, values: tuple[str, ...]) -> M:
        others = (OTHER,) * len(values)
        if len(self._children) >= MAX_SERIES:
            if others in self._children:
                return self._children[others]
            logger.warning(
                "a metric has too many series; further ones count as other",
                metric=self.name,
                series=MAX_SERIES,
            )
            values = others
        self._children[values] = child = metric.labels(*values)
        return child


class Counter(Metric[prometheus_client.Counter]):
    """A number that only grows."""

    def _create(self, registry: CollectorRegistry) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.text, self.labels, registry=registry)

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Add ``amount``, which is not negative."""
        if (child := self._child(labels)) is not None:
            child.inc(amount)


class Gauge(Metric[prometheus_client.Gauge]):
    """A number that each process has of its own; ``across``: what all of them report."""

    def __init__(self, name: str, text: str, labels: Sequence[str], across: Across) -> None:
        self._across = across
        super().__init__(name, text, labels)

    def _create(self, registry: CollectorRegistry) -> prometheus_client.Gauge:
        mode: Any = f"live{self._across}"
        return prometheus_client.Gauge(
            self.name, self.text, self.labels, registry=registry, multiprocess_mode=mode
        )

    def set(self, value: float, /, **labels: str) -> None:
        """Set the value of this process."""
        if (child := self._child(labels)) is not None:
            child.set(value)

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Add ``amount``, which may be negative."""
        if (child := self._child(labels)) is not None:
            child.inc(amount)


class Histogram(Metric[prometheus_client.Histogram]):
    """A distribution of values, such as durations."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._buckets = buckets
        super().__init__(name, text, labels)

    def _create(self, registry: CollectorRegistry) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            self.name, self.text, self.labels, registry=registry, buckets=self._buckets
        )

    def observe(self, value: float, /, **labels: str) -> None:
        """Record a value."""
        if (child := self._child(labels)) is not None:
            child.observe(value)

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Record the seconds that a block takes, whether or not it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - started, **labels)


_declared: dict[str, Metric[Any]] = {}
_registry: CollectorRegistry | None = None


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """Declare a counter; its name ends in ``_total``."""
    if not name.endswith("_total"):
        raise ValueError(f"{name}: the name of a counter ends in _total.")
    return Counter(name, text, labels)


def gauge(name: str, text: str, labels: Sequence[str] = (), *, across: Across = "sum") -> Gauge:
    """Declare a gauge; ``across``: the sum, the highest or the lowest of the processes' values."""
    if name.endswith("_total"):
        raise ValueError(f"{name}: only a counter ends in _total.")
    return Gauge(name, text, labels, across)


def histogram(
    name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = BUCKETS
) -> Histogram:
    """Declare a histogram; its name ends in its unit, and ``buckets`` are in that unit."""
    if name.endswith(NO_UNITS):
        raise ValueError(f"{name}: the name of a histogram ends in its unit, such as _seconds.")
    return Histogram(name, text, labels, buckets)


def _check(name: str, text: str, labels: Sequence[str]) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name}: write the name as orders_paid_total.")
    if name in _declared:
        raise ValueError(f"{name} has been declared already; import that metric.")
    if not text.endswith("."):
        raise ValueError(f"{name}: the text that describes it ends with a full stop.")
    for label in labels:
        if not NAME.fullmatch(label) or label in RESERVED_LABELS:
            raise ValueError(f"{name}: {label} is not a name that a label can have.")


@contextmanager
def bound_to(registry: CollectorRegistry) -> Iterator[None]:
    """Collect all declared metrics in ``registry`` within the block: while the service runs."""
    global _registry
    before, _registry = _registry, registry
    metrics = {metric: (metric._bound, metric._children) for metric in _declared.values()}
    for metric in _declared.values():
        metric._bind(registry)
    try:
        yield
    finally:
        _registry = before
        for metric in _declared.values():
            metric._bound, metric._children = metrics.get(metric, (None, {}))


def span(
    name: str, attributes: Mapping[str, AttributeValue] | None = None
) -> AbstractContextManager[None]:
    """A span around a block, part of the trace of the request or job, if that is recorded.

    An exception marks it as failed, with its type alone. The values of attributes are redacted as
    those of log lines are.
    """
    return tracing.own_span(name, _checked(attributes or {}))


def set_attributes(attributes: Mapping[str, AttributeValue]) -> None:
    """Add attributes to the current span: of the request or job, or of the block around."""
    tracing.set_attributes(_checked(attributes))


def _checked(attributes: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    for name in attributes:
        _check_attribute(name)
    return attributes


@lru_cache(1024)
def _check_attribute(name: str) -> None:
    if not ATTRIBUTE.fullmatch(name):
        raise ValueError(f"{name}: write the name of an attribute as order.id.")
