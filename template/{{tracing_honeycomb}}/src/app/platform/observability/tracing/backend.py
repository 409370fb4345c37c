"""What Honeycomb wants: spans by OTLP, with a key, and W3C trace context between services."""

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
    """Return the id of a new trace: 128 random bits."""
    return random.getrandbits(128)


def sender(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """Return what makes the sender of spans; ``None``: there is nobody to send them to.

    With an endpoint and no key, spans go there without one: a collector or Refinery may add it.
    """
    if settings.honeycomb_api_key is None:
        return otlp.sender()
    os.environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    return otlp.sender({"x-honeycomb-team": settings.honeycomb_api_key.get_secret_value()})
