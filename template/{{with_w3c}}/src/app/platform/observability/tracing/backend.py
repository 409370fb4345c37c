"""What the backend wants: spans by OTLP, random ids, and W3C trace context between services."""

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
    """Return the id of a new trace: 128 random bits."""
    return random.getrandbits(128)


def sender(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """Return what makes the sender of spans; ``None``: there is nobody to send them to."""
    return otlp.sender()
