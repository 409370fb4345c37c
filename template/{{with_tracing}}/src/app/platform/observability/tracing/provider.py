"""The tracer provider: resource attributes, trace ids and sampling.

``OTEL_*`` variables take precedence over the defaults of the chosen ``backend``.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, TraceState, get_current_span
from pydantic import SecretStr

from app.platform import about
from app.platform.base import context
from app.platform.observability.tracing import backend
from app.platform.observability.tracing.spans import CurrentTracerProvider, Tracing, threshold
from app.platform.settings import PlatformSettings
from app.platform.settings.tracing import TracingSettings

ENTRY_KINDS = (SpanKind.SERVER, SpanKind.CONSUMER)


def _sampling_ratio(settings: PlatformSettings) -> float:
    kind = settings.otel_traces_sampler.removeprefix("parentbased_")
    if kind != "traceidratio":
        return 1.0 if kind == "always_on" else 0.0
    if settings.otel_traces_sampler_arg is not None:
        return settings.otel_traces_sampler_arg
    return 0.1 if settings.is_deployed else 1.0


def span_processor_factory(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """The factory of the span processor; ``None`` if spans are not exported.

    Also called before the fork, so that all workers share what it imports.
    """
    _to_environment(settings)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return backend.span_processor_factory(settings)


def set_propagators() -> None:
    """Use the backend's propagators, unless ``OTEL_PROPAGATORS`` names others."""
    if "OTEL_PROPAGATORS" not in os.environ:
        propagate.set_global_textmap(CompositePropagator(backend.PROPAGATORS))


def start(settings: PlatformSettings) -> Tracing:
    """Create the provider; after the fork, since it owns a thread."""
    create_processor = span_processor_factory(settings)
    ratio = _sampling_ratio(settings) if create_processor else 0.0
    ids = Ids()
    provider = TracerProvider(
        EntrySampler(ratio), _resource(settings), shutdown_on_exit=False, id_generator=ids
    )
    if create_processor:
        provider.add_span_processor(create_processor())
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody has set one
        trace.set_tracer_provider(CurrentTracerProvider())
    follow_parent = bool(create_processor) and settings.otel_traces_sampler.startswith(
        "parentbased_"
    )
    return Tracing(provider, ids.set_next_trace_id, ratio, follow_parent)


def _resource(settings: PlatformSettings) -> Resource:
    """The resource attributes: service, version, instance and environment."""
    service = {
        "service.name": about.NAME,
        "service.version": about.version(),
        "service.instance.id": str(uuid4()),
        "deployment.environment.name": settings.environment,
    }
    return Resource.create(service).merge(OTELResourceDetector().detect())


def _to_environment(settings: PlatformSettings) -> None:
    """Export settings from ``.env`` and secret files: the SDK reads only the environment."""
    for name in TracingSettings.model_fields:
        value = getattr(settings, name) if name.startswith("otel_") else None
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            os.environ.setdefault(name.upper(), text)
    # Stable semantic conventions in the spans of every library.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")


class OncePerMinute(logging.Filter):
    """Passes each message once a minute, for failures of each second or request."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._passed.get(record.msg, -60.0) < 60:
            return False
        self._passed[record.msg] = now
        return True


_once_per_minute = OncePerMinute()


def throttle_exporter_logs() -> None:
    """Limit what an unavailable collector and malformed baggage write to the log."""
    exporter = ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal")
    for name in (*exporter, "baggage.propagation"):
        logging.getLogger(f"opentelemetry.{name}").addFilter(_once_per_minute)


class Ids(RandomIdGenerator):
    """Generates the trace id that was set for the next trace.

    Spans inside an unrecorded request get the trace id of that request.
    """

    def __init__(self) -> None:
        self._next = threading.local()

    def set_next_trace_id(self, trace_id: int) -> None:
        """Set the id of this thread's next trace."""
        self._next.trace_id = trace_id

    def generate_trace_id(self) -> int:
        trace_id: int = self._next.__dict__.pop("trace_id", 0)
        return trace_id or int(context.current().trace_id or "0", 16) or backend.new_trace_id()


class EntrySampler(Sampler):
    """The sampler of the SDK: entry spans are sampled already; calls outside of one are dropped.

    ``tracestate`` passes the sampling probability on, so that backends can extrapolate counts.
    https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
    """

    def __init__(self, ratio: float) -> None:
        self._other_spans = ParentBased(TraceIdRatioBased(ratio))
        digits = f"{threshold(ratio):014x}".rstrip("0") or "0"
        self._tracestate = TraceState([("ot", f"th:{digits}")]) if 0 < ratio < 1 else None

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> SamplingResult:
        parent = get_current_span(parent_context)
        if kind in ENTRY_KINDS:
            remote = parent.get_span_context()
            state = remote.trace_state if remote.is_valid else self._tracestate
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)
        outside = kind is SpanKind.CLIENT or context.current().trace_id
        sampler = ALWAYS_OFF if outside and not parent.is_recording() else self._other_spans
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, *args, **kwargs
        )

    def get_description(self) -> str:
        return "EntrySampler"
