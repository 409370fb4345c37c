"""Export of spans by OTLP, in batches, from a background thread."""

import os
from collections.abc import Callable, Mapping

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def span_processor_factory(
    headers: Mapping[str, str] | None = None,
) -> Callable[[], SpanProcessor] | None:
    """The factory of the span processor, if the environment has an OTLP endpoint.

    ``headers``: sent in addition to those of the environment.
    """
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "console":
        return lambda: BatchSpanProcessor(ConsoleSpanExporter())
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 (0.1 s at every start)
        OTLPSpanExporter,
    )

    OTLPSpanExporter(headers=headers)  # the first one imports its HTTP client: before the fork
    return lambda: BatchSpanProcessor(OTLPSpanExporter(headers=headers))
