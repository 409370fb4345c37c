"""Where a trace enters this process, is carried on, and leaves it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from starlette.types import Scope

from app import about
from app.logs import scrub

NO_PARENT = Context()
CARRIERS = frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)


class Entry:
    """Where work enters this process: the span of a request or a job, recorded or not."""

    __slots__ = ("_token", "sampled", "span", "span_id", "trace_id")

    def __init__(self, span: Span, parent: Context) -> None:
        ids = span.get_span_context()
        self.span = span
        self._token = attach(set_span_in_context(span, parent))
        self.trace_id = f"{ids.trace_id:032x}"
        self.span_id = f"{ids.span_id:016x}"
        self.sampled = span.is_recording()

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Finish the span of a request; ``route`` is the template, empty when none matched."""
        detach(self._token)
        if not self.sampled:
            return
        self.span.set_attribute("http.response.status_code", status)
        if route:
            self.span.set_attribute("http.route", route)
            self.span.update_name(f"{method} {route}")
        if status >= 500:
            self._failed(type(error).__qualname__ if error else str(status))
        self.span.end()

    def end_job(self, error: BaseException | None) -> None:
        """Finish the span of a job."""
        detach(self._token)
        if error is not None:
            self._failed(type(error).__qualname__)
        self.span.end()

    def _failed(self, reason: str) -> None:
        """Say what kind of error it was. Its message may hold personal values: the log has it."""
        self.span.set_attribute("error.type", reason)
        self.span.set_status(StatusCode.ERROR)


class Untraced:
    """What takes the place of an entry where nothing is traced: it has no ids."""

    __slots__ = ()
    trace_id = ""
    span_id = ""
    sampled = False

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Take note of how a request ended."""


UNTRACED = Untraced()


class Tracing:
    """What this process traces with."""

    def __init__(self, provider: TracerProvider, sampler: Sampler) -> None:
        self.provider = provider
        self.tracer: Tracer = provider.get_tracer(about.NAME, about.release())
        self._sampler = sampler
        self._ids = provider.id_generator

    def start(self, name: str, kind: SpanKind, parent: Context) -> Entry:
        """Begin a request or a job: a span if it is sampled, else only its ids."""
        remote = get_current_span(parent).get_span_context() if parent else INVALID_SPAN_CONTEXT
        trace_id = remote.trace_id or self._ids.generate_trace_id()
        decision = self._sampler.should_sample(parent, trace_id, name, kind).decision
        if decision is Decision.RECORD_AND_SAMPLE:
            return Entry(self.tracer.start_span(name, parent, kind), parent)
        span_id = self._ids.generate_span_id()
        ids = SpanContext(trace_id, span_id, is_remote=False, trace_state=remote.trace_state)
        return Entry(NonRecordingSpan(ids), parent)


# One a process, while the service runs: jobs and clients have no app to ask for it.
_tracing: Tracing | None = None


def active() -> Tracing | None:
    """Return what this process traces with; ``None`` while the service does not run."""
    return _tracing


def activate(tracing: Tracing | None) -> None:
    """Trace with this from now on."""
    global _tracing
    _tracing = tracing


def server_span(scope: Scope, headers: Mapping[bytes, bytes]) -> Entry | Untraced:
    """Begin the span of a request, in the trace of its caller if it names one."""
    if _tracing is None:
        return UNTRACED
    parent = NO_PARENT
    if not CARRIERS.isdisjoint(headers):
        carrier = {name.decode("latin-1"): headers[name].decode("latin-1") for name in headers}
        parent = propagate.extract(carrier, NO_PARENT)
    entry = _tracing.start(scope["method"], SpanKind.SERVER, parent)
    if entry.sampled:
        # The query is left out: secrets travel in it.
        entry.span.set_attributes(
            {
                "http.request.method": scope["method"],
                "url.path": scrub(scope["path"]),
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
            }
        )
    return entry


@contextmanager
def job_span(name: str, carrier: Mapping[str, str]) -> Iterator[Entry | Untraced]:
    """Run a job in the trace that ``carrier`` names, or in a new one when it names none."""
    if _tracing is None:
        yield UNTRACED
        return
    entry = _tracing.start(name, SpanKind.CONSUMER, propagate.extract(carrier, NO_PARENT))
    error: BaseException | None = None
    try:
        yield entry
    except BaseException as raised:
        error = raised
        raise
    finally:
        entry.end_job(error)


def inject() -> dict[str, str]:
    """Return what carries the current trace to another process."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier
