"""What traces are made with: the provider, its ids, and which spans it records.

Standard ``OTEL_*`` variables rule; ``backend`` says what the chosen backend wants.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from opentelemetry import propagate
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
from app.platform.observability.tracing.spans import Tracing, threshold
from app.platform.settings import PlatformSettings
from app.platform.settings.tracing import TracingSettings

ENTRIES = (SpanKind.SERVER, SpanKind.CONSUMER)


def _share(settings: PlatformSettings) -> float:
    kind = settings.otel_traces_sampler.removeprefix("parentbased_")
    if kind != "traceidratio":
        return 1.0 if kind == "always_on" else 0.0
    if settings.otel_traces_sampler_arg is not None:
        return settings.otel_traces_sampler_arg
    return 0.1 if settings.environment == "production" else 1.0


def sender(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """Return what makes the sender of spans, if there is somebody to send them to.

    To be asked for before the fork, too: what it imports is then shared by all workers.
    """
    _to_environment(settings)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return backend.sender(settings)


def start(settings: PlatformSettings) -> Tracing:
    """Make the provider. It owns a thread, so it is made after the worker was forked."""
    make_sender = sender(settings)
    share = _share(settings) if make_sender else 0.0
    ids = Ids()
    provider = TracerProvider(
        _Inside(share), _resource(settings), shutdown_on_exit=False, id_generator=ids
    )
    if make_sender:
        provider.add_span_processor(make_sender())
    if "OTEL_PROPAGATORS" not in os.environ:
        propagate.set_global_textmap(CompositePropagator(backend.PROPAGATORS))
    follow_parent = bool(make_sender) and settings.otel_traces_sampler.startswith("parentbased_")
    return Tracing(provider, ids.begin, share, follow_parent)


def _resource(settings: PlatformSettings) -> Resource:
    """Say what sends the spans: this process, of this version, of this deployment."""
    service = {
        "service.name": about.NAME,
        "service.version": about.version(),
        "service.instance.id": str(uuid4()),
        "deployment.environment.name": settings.environment,
    }
    return Resource.create(service).merge(OTELResourceDetector().detect())


def _to_environment(settings: PlatformSettings) -> None:
    """Hand the SDK, which reads nothing else, what came from ``.env`` or a secret's file."""
    for name in TracingSettings.model_fields:
        value = getattr(settings, name) if name.startswith("otel_") else None
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            os.environ.setdefault(name.upper(), text)
    # The conventions' stable names, in the spans of every library.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")


class _OnceAMinute(logging.Filter):
    """Lets a message pass once a minute: what fails each second, or in each request."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._passed.get(record.msg, -60.0) < 60:
            return False
        self._passed[record.msg] = now
        return True


_once_a_minute = _OnceAMinute()


def hush() -> None:
    """Keep a collector that is away, and callers with senseless baggage, from filling the log."""
    exporter = ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal")
    for name in (*exporter, "baggage.propagation"):
        logging.getLogger(f"opentelemetry.{name}").addFilter(_once_a_minute)


class Ids(RandomIdGenerator):
    """Gives a trace the id that was decided on when it began.

    What starts inside a request that is not recorded has the trace id of that request.
    """

    def __init__(self) -> None:
        self._decided = threading.local()

    def begin(self, trace_id: int) -> None:
        """Give the next trace of this thread this id."""
        self._decided.trace_id = trace_id

    def generate_trace_id(self) -> int:
        decided: int = self._decided.__dict__.pop("trace_id", 0)
        return decided or int(context.current().trace_id or "0", 16) or backend.new_trace_id()


class _Inside(Sampler):
    """What the SDK asks: entries are decided on already, a call outside of one is no trace.

    Of how many traces one was chosen is passed on in ``tracestate``, so that whoever counts spans
    can say how many requests there were.
    https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
    """

    def __init__(self, share: float) -> None:
        self._otherwise = ParentBased(TraceIdRatioBased(share))
        digits = f"{threshold(share):014x}".rstrip("0") or "0"
        self._chosen = TraceState([("ot", f"th:{digits}")]) if 0 < share < 1 else None

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
        if kind in ENTRIES:
            remote = parent.get_span_context()
            state = remote.trace_state if remote.is_valid else self._chosen
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)
        outside = kind is SpanKind.CLIENT or context.current().trace_id
        sampler = ALWAYS_OFF if outside and not parent.is_recording() else self._otherwise
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, *args, **kwargs
        )

    def get_description(self) -> str:
        return "decided at the entry"
