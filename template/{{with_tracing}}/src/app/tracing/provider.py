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

from app import about
from app.settings import Settings
from app.settings.tracing import TracingSettings
from app.tracing.spans import Tracing

ENTRIES = (SpanKind.SERVER, SpanKind.CONSUMER)


def _sampler(settings: Settings) -> Sampler:
    share = settings.otel_traces_sampler_arg
    if share is None:
        share = 0.1 if settings.environment == "production" else 1.0
    root = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(share),
    }[settings.otel_traces_sampler.removeprefix("parentbased_")]
    based_on_parent = settings.otel_traces_sampler.startswith("parentbased_")
    return ParentBased(root) if based_on_parent else root


def _exporter() -> SpanExporter | None:
    """Return what sends spans away, if the environment names a place for them."""
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if name == "console":
        return ConsoleSpanExporter()
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if name != "otlp" or not any(os.environ.get(place) for place in places):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def start(settings: Settings) -> Tracing:
    """Make the provider. It owns a thread, so it is made after the worker was forked."""
    _to_environment(settings)
    service = {
        "service.name": about.NAME,
        "service.version": about.release(),
        "deployment.environment.name": settings.environment,
    }
    resource = Resource.create(service).merge(OTELResourceDetector().detect())
    exporter = _exporter()
    sampler = _sampler(settings) if exporter else ALWAYS_OFF
    provider = TracerProvider(_AtEntries(sampler), resource, shutdown_on_exit=False)
    if exporter:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, sampler)


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


class _AtEntries(Sampler):
    """Asked by the SDK. Entries were decided on already; a call outside of one is no trace."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SamplingResult:
        chosen = self._sampler
        if kind in ENTRIES:
            chosen = ALWAYS_ON
        elif kind is SpanKind.CLIENT and not get_current_span(parent_context).is_recording():
            chosen = ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, *args, **kwargs)

    def get_description(self) -> str:
        return self._sampler.get_description()
