"""AWS X-Ray: trace ids that start with the time, and its own header beside W3C's."""

import random
import time
from collections.abc import Callable

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.aws import AwsXRayPropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.platform.observability.tracing import otlp
from app.platform.settings import PlatformSettings

# The last one wins: AWS load balancers add their header to every request, even if the caller sent a
# W3C header, and then the caller is the parent.
PROPAGATORS: list[TextMapPropagator] = [
    AwsXRayPropagator(),
    TraceContextTextMapPropagator(),
    W3CBaggagePropagator(),
]


def new_trace_id() -> int:
    """A new trace id: 32 bits of Unix time, and 96 random bits."""
    return int(time.time()) << 96 | random.getrandbits(96)


def span_processor_factory(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """The factory of the span processor; ``None`` if spans are not exported."""
    return otlp.span_processor_factory()
