"""Traces are printed, one at a time, for whoever develops. Elsewhere nothing is."""

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
WAITING = 100  # traces whose end has not come; what began them may never end
# What is shown of a span, beside its name and how long it took.
SHOWN = ("http.response.status_code", "db.query.text", "url.full", "error.type")


def new_trace_id() -> int:
    """Return the id of a new trace: 128 random bits."""
    return random.getrandbits(128)


def sender(settings: PlatformSettings) -> Callable[[], SpanProcessor] | None:
    """Return what makes the printer of spans; ``None`` where programs read what is written."""
    if settings.environment != "development":
        return None
    return lambda: SimpleSpanProcessor(Printer())


class Printer(SpanExporter):
    """Prints what this process did in a trace, when it has ended here."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or sys.stderr.write
        self.waiting: OrderedDict[int, list[ReadableSpan]] = OrderedDict()  # by trace

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._take(span)
        return SpanExportResult.SUCCESS

    def _take(self, span: ReadableSpan) -> None:
        trace_id = span.context.trace_id
        trace = self.waiting.setdefault(trace_id, [])
        trace.append(span)
        if span.parent is None or span.parent.is_remote:
            del self.waiting[trace_id]
            self._write("\n".join(_lines(trace)) + "\n")
        elif len(self.waiting) > WAITING:
            self.waiting.popitem(last=False)


def _lines(trace: list[ReadableSpan]) -> Iterator[str]:
    """Yield a line for each span, below the one that it is part of, in the order of time."""
    children: dict[int, list[ReadableSpan]] = {}
    *_, root = trace
    for span in sorted(trace, key=lambda span: span.start_time or 0):
        if span.parent and span is not root:
            children.setdefault(span.parent.span_id, []).append(span)

    def below(span: ReadableSpan, depth: int) -> Iterator[str]:
        yield f"{'  ' * depth}{_line(span)}"
        for child in children.get(span.context.span_id, ()):
            yield from below(child, depth + 1)

    yield f"trace {format_trace_id(root.context.trace_id)}"
    yield from below(root, 1)


def _line(span: ReadableSpan) -> str:
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    attributes = span.attributes or {}
    shown = " ".join(
        " ".join(str(attributes[name]).split()) for name in SHOWN if name in attributes
    )
    failed = " FAILED" if span.status.status_code is StatusCode.ERROR else ""
    return f"{milliseconds:8.1f} ms  {span.name}  {shown}{failed}".rstrip()
