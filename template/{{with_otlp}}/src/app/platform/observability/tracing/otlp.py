"""Spans leave by OTLP, in batches, from a thread of their own."""

import os
from collections.abc import Callable, Mapping

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

PLACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def sender(headers: Mapping[str, str] | None = None) -> Callable[[], SpanProcessor] | None:
    """Return what makes the sender, if the environment names a place for spans.

    ``headers`` are sent along, beside those of the environment.
    """
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "console":
        return lambda: BatchSpanProcessor(ConsoleSpanExporter())
    if not any(os.environ.get(place) for place in PLACES):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 (0.1 s at every start)
        OTLPSpanExporter,
    )

    return lambda: BatchSpanProcessor(OTLPSpanExporter(headers=headers))
