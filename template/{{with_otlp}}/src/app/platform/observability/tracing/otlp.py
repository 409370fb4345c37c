"""Export of spans by OTLP, in batches, from a background thread."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# Creates the session (of requests) that exports; set by a component, where they must be signed.
create_session: Callable[[], Any] | None = None


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

    def create() -> SpanProcessor:
        session = create_session() if create_session else None
        return BatchSpanProcessor(OTLPSpanExporter(headers=headers, session=session))

    return create
