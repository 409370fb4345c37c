"""The tracing backend: OTLP, random trace ids, W3C trace context."""

import random
from collections.abc import Callable

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.platform.observability.tracing import otlp
from app.platform.settings import PlatformSettings

PROPAGATORS: list[TextMapPropagator] = [TraceContextTextMapPropagator(), W3CBaggagePropagator()]


def new_trace_id() -> int:
    """A new trace id: 128 random bits."""
    return random.getrandbits(128)


def span_processor_factory(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """The factory of the span processor; ``None`` if spans are not exported."""
    return otlp.span_processor_factory()
