"""Honeycomb: OTLP with an API key, and W3C trace context."""

import os
import random
from collections.abc import Callable

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.platform.observability.tracing import otlp
from app.platform.settings import PlatformSettings

ENDPOINT = "https://api.honeycomb.io"
PROPAGATORS: list[TextMapPropagator] = [TraceContextTextMapPropagator(), W3CBaggagePropagator()]


def new_trace_id() -> int:
    """A new trace id: 128 random bits."""
    return random.getrandbits(128)


def span_processor_factory(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """The factory of the span processor; ``None`` if spans are not exported.

    Without a key, spans go to the configured endpoint: a collector or Refinery may add the key.
    """
    if settings.honeycomb_api_key is None:
        return otlp.span_processor_factory()
    os.environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    return otlp.span_processor_factory(
        {"x-honeycomb-team": settings.honeycomb_api_key.get_secret_value()}
    )
