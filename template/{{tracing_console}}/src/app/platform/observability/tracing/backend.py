"""Traces printed to the terminal, in development only."""

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.platform.settings import PlatformSettings

PROPAGATORS: list[TextMapPropagator] = [TraceContextTextMapPropagator(), W3CBaggagePropagator()]
MAX_OPEN_TRACES = 100  # the oldest is dropped: its root span may never end
# The attributes that are printed, beside the name and the duration.
PRINTED_ATTRIBUTES = ("http.response.status_code", "db.query.text", "url.full", "error.type")


def new_trace_id() -> int:
    """A new trace id: 128 random bits."""
    return random.getrandbits(128)


def span_processor_factory(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """The factory of the span printer; ``None`` outside of development."""
    if settings.environment != "development":
        return None
    return lambda: SimpleSpanProcessor(Printer())


class Printer(SpanExporter):
    """Prints the spans of a trace once its last span in this process has ended."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or sys.stderr.write
        self.open_traces: OrderedDict[int, list[ReadableSpan]] = OrderedDict()  # by trace

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._add(span)
        return SpanExportResult.SUCCESS

    def _add(self, span: ReadableSpan) -> None:
        trace_id = span.context.trace_id
        trace = self.open_traces.setdefault(trace_id, [])
        trace.append(span)
        if span.parent is None or span.parent.is_remote:
            del self.open_traces[trace_id]
            self._write("\n".join(_lines(trace)) + "\n")
        elif len(self.open_traces) > MAX_OPEN_TRACES:
            self.open_traces.popitem(last=False)


def _lines(trace: list[ReadableSpan]) -> Iterator[str]:
    """One line per span, indented below its parent, in the order of start."""
    children: dict[int, list[ReadableSpan]] = {}
    *_, root = trace
    for span in sorted(trace, key=lambda span: span.start_time or 0):
        if span.parent and span is not root:
            children.setdefault(span.parent.span_id, []).append(span)

    def subtree(span: ReadableSpan, depth: int) -> Iterator[str]:
        yield f"{'  ' * depth}{_line(span)}"
        for child in children.get(span.context.span_id, ()):
            yield from subtree(child, depth + 1)

    yield f"trace {format_trace_id(root.context.trace_id)}"
    yield from subtree(root, 1)


def _line(span: ReadableSpan) -> str:
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    attributes = span.attributes or {}
    shown = " ".join(
        " ".join(str(attributes[name]).split()) for name in PRINTED_ATTRIBUTES if name in attributes
    )
    failed = " FAILED" if span.status.status_code is StatusCode.ERROR else ""
    return f"{milliseconds:8.1f} ms  {span.name}  {shown}{failed}".rstrip()
