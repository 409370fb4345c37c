"""What traces are made with: the provider, what it samples, and where it sends spans.

Standard ``OTEL_*`` variables rule.
"""

import logging
import os
import time
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, get_current_span
from pydantic import SecretStr

from app import about, context
from app.settings import Settings
from app.settings.tracing import TracingSettings
from app.tracing.spans import Tracing

ENTRIES = (SpanKind.SERVER, SpanKind.CONSUMER)


def _share(settings: Settings) -> float:
    kind = settings.otel_traces_sampler.removeprefix("parentbased_")
    if kind != "traceidratio":
        return 1.0 if kind == "always_on" else 0.0
    if settings.otel_traces_sampler_arg is not None:
        return settings.otel_traces_sampler_arg
    return 0.1 if settings.environment == "production" else 1.0


def exporter(settings: Settings) -> type[SpanExporter] | None:
    """Return what sends spans away, if the environment names a place for them.

    To be asked for before the fork, too: what it imports is then shared by all workers.
    """
    _to_environment(settings)
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if name == "console":
        return ConsoleSpanExporter
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if name != "otlp" or not any(os.environ.get(place) for place in places):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter


def start(settings: Settings) -> Tracing:
    """Make the provider. It owns a thread, so it is made after the worker was forked."""
    exports = exporter(settings)
    service = {
        "service.name": about.NAME,
        "service.version": about.release(),
        "deployment.environment.name": settings.environment,
    }
    resource = Resource.create(service).merge(OTELResourceDetector().detect())
    share = _share(settings) if exports else 0.0
    provider = TracerProvider(_Inside(share), resource, shutdown_on_exit=False, id_generator=_Ids())
    if exports:
        provider.add_span_processor(BatchSpanProcessor(exports()))
    follow_parent = exports is not None and settings.otel_traces_sampler.startswith("parentbased_")
    return Tracing(provider, share, follow_parent)


def _to_environment(settings: Settings) -> None:
    """Hand the SDK, which reads nothing else, what came from ``.env`` or a secret's file."""
    for name in TracingSettings.model_fields:
        if (value := getattr(settings, name)) is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            os.environ.setdefault(name.upper(), text)
    # The conventions' stable names, in the spans of every library.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")


class _OnceAMinute(logging.Filter):
    """Lets a message pass once a minute: a collector that is away would say so every second."""

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
    """Keep the exporter from filling the log while the collector is away."""
    for name in ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal"):
        logging.getLogger(f"opentelemetry.{name}").addFilter(_once_a_minute)


class _Ids(RandomIdGenerator):
    """Gives what starts inside a request that is not recorded the trace id of that request."""

    def generate_trace_id(self) -> int:
        trace_id = context.current().trace_id
        return int(trace_id, 16) if trace_id else super().generate_trace_id()


class _Inside(Sampler):
    """What the SDK asks: entries are decided on already, a call outside of one is no trace."""

    def __init__(self, share: float) -> None:
        self._otherwise = ParentBased(TraceIdRatioBased(share))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SamplingResult:
        sampler: Sampler = self._otherwise
        if kind in ENTRIES:
            sampler = ALWAYS_ON
        elif not get_current_span(parent_context).is_recording() and (
            kind is SpanKind.CLIENT or context.current().trace_id
        ):
            sampler = ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, *args, **kwargs)

    def get_description(self) -> str:
        return "decided at the entry"
