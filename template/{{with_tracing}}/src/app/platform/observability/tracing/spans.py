"""Where a trace enters this process, is carried on, and leaves it."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from starlette.types import Scope

from app.platform import about
from app.platform.base import context
from app.platform.observability.logs import scrub_path
from app.platform.observability.tracing import backend

NO_PARENT = Context()
RANDOM_BITS = 56  # the last ones of a trace id: W3C Trace Context, level 2


class Span(Protocol):
    """What the request layer and the jobs know of the span that they run in."""

    trace_id: str
    span_id: str
    sampled: bool

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Finish the span of a request; ``route`` is the template, empty when none matched."""


class Unrecorded:
    """Ids alone, for logs and for other services: what nine requests in ten have."""

    __slots__ = ("span_id", "trace_id")
    sampled = False

    def __init__(self, trace_id: str, span_id: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Nothing was recorded."""


class Entered:
    """A span of OpenTelemetry, current until it ends."""

    __slots__ = ("_token", "sampled", "span", "span_id", "trace_id")

    def __init__(self, span: trace.Span, parent: Context) -> None:
        ids = span.get_span_context()
        self.span = span
        self._token = attach(trace.set_span_in_context(span, parent))
        self.trace_id = trace.format_trace_id(ids.trace_id)
        self.span_id = trace.format_span_id(ids.span_id)
        self.sampled = span.is_recording()

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        detach(self._token)
        self.span.set_attribute("http.response.status_code", status)
        if route:
            self.span.set_attribute("http.route", route)
            self.span.update_name(f"{method} {route}")
        if status >= 500:
            self._failed(type(error).__qualname__ if error else str(status))
        self.span.end()

    def end_job(self, error: BaseException | None) -> None:
        detach(self._token)
        if error is not None:
            self._failed(type(error).__qualname__)
        self.span.end()

    def _failed(self, reason: str) -> None:
        """Say what kind of error it was. Its message may hold personal values: the log has it."""
        self.span.set_attribute("error.type", reason)
        self.span.set_status(StatusCode.ERROR)


UNTRACED = Unrecorded("", "")


def threshold(share: float) -> int:
    """Return what the random bits of a trace id have to reach, so that ``share`` of them do."""
    return round((1 - share) * (1 << RANDOM_BITS))


class Tracing:
    """What this process traces with.

    ``share``: of the traces that start here, so many are recorded; which ones, their ids decide,
    so that services with the same share record the same. With ``follow_parent``, a trace that
    started elsewhere is recorded if it is there. ``begin`` sets the id of the next trace.
    """

    def __init__(
        self,
        provider: TracerProvider,
        begin: Callable[[int], None],
        share: float,
        follow_parent: bool,
    ) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer(about.NAME, about.version())
        fields = propagate.get_global_textmap().fields
        self.carriers = frozenset(name.lower().encode() for name in fields)
        self._begin = begin
        self._threshold = threshold(share)
        self._follow_parent = follow_parent

    def start(self, name: str, kind: SpanKind) -> Unrecorded | Entered:
        """Begin a trace here."""
        trace_id = backend.new_trace_id()
        if self._chosen(trace_id):
            self._begin(trace_id)
            return Entered(self.tracer.start_span(name, NO_PARENT, kind), NO_PARENT)
        return Unrecorded(f"{trace_id:032x}", f"{random.getrandbits(64):016x}")

    def go_on(self, name: str, kind: SpanKind, parent: Context) -> Unrecorded | Entered:
        """Go on with the trace that ``parent`` names; begin one when it names none."""
        remote = trace.get_current_span(parent).get_span_context()
        if not remote.is_valid:
            return self.start(name, kind)
        follow = self._follow_parent
        if remote.trace_flags.sampled if follow else self._chosen(remote.trace_id):
            return Entered(self.tracer.start_span(name, parent, kind), parent)
        span_id = random.getrandbits(64)
        ids = SpanContext(remote.trace_id, span_id, is_remote=False, trace_state=remote.trace_state)
        return Entered(NonRecordingSpan(ids), parent)

    def _chosen(self, trace_id: int) -> bool:
        return trace_id & ((1 << RANDOM_BITS) - 1) >= self._threshold


class Headers(Getter[Mapping[bytes, bytes]]):
    """Reads what carries a trace from a request's headers, as ASGI has them: in small letters."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode("latin-1"))
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]


HEADERS = Headers()

# One a process, while the service runs: jobs and clients have no app to ask for it.
_tracing: Tracing | None = None


def active() -> Tracing | None:
    """Return what this process traces with; ``None`` while the service does not run."""
    return _tracing


def activate(tracing: Tracing | None) -> None:
    """Trace with this from now on."""
    global _tracing
    _tracing = tracing


def server_span(scope: Scope, headers: Mapping[bytes, bytes]) -> Span:
    """Begin the span of a request, in the trace of its caller if it names one."""
    if _tracing is None:
        return UNTRACED
    if _tracing.carriers.isdisjoint(headers):
        entry = _tracing.start(scope["method"], SpanKind.SERVER)
    else:
        parent = propagate.extract(headers, NO_PARENT, HEADERS)
        entry = _tracing.go_on(scope["method"], SpanKind.SERVER, parent)
    if isinstance(entry, Entered) and entry.sampled:
        # The query is left out: secrets travel in it.
        entry.span.set_attributes(
            {
                "http.request.method": scope["method"],
                "url.path": scrub_path(scope["path"]),
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
            }
        )
    return entry


@contextmanager
def job_span(name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
    """Run a job in the trace that ``carrier`` names, or in a new one when it names none."""
    if _tracing is None:
        yield UNTRACED
        return
    entry = _tracing.go_on(name, SpanKind.CONSUMER, propagate.extract(carrier, NO_PARENT))
    error: BaseException | None = None
    try:
        yield entry
    except BaseException as raised:
        error = raised
        raise
    finally:
        if isinstance(entry, Entered):
            entry.end_job(error)


def inject() -> dict[str, str]:
    """Return what carries the current trace to another process."""
    carrier: dict[str, str] = {}
    current = context.current()
    if trace.get_current_span().get_span_context().is_valid or not current.trace_id:
        propagate.inject(carrier)
    else:
        ids = SpanContext(
            int(current.trace_id, 16),
            int(current.span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.DEFAULT),
        )
        propagate.inject(carrier, trace.set_span_in_context(NonRecordingSpan(ids)))
    return carrier
