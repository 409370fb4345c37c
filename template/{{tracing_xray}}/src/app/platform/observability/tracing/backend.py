"""What X-Ray wants: ids that begin with the time, and its own header beside W3C's."""

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

# The later one wins. A load balancer of AWS adds its header to every request, also to those whose
# caller sent a W3C one: that caller is the parent.
PROPAGATORS: list[TextMapPropagator] = [
    AwsXRayPropagator(),
    TraceContextTextMapPropagator(),
    W3CBaggagePropagator(),
]


def new_trace_id() -> int:
    """Return the id of a new trace: 32 bits of the time in seconds, and 96 random ones."""
    return int(time.time()) << 96 | random.getrandbits(96)


def sender(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """Return what makes the sender of spans; ``None``: there is nobody to send them to."""
    return otlp.sender()
