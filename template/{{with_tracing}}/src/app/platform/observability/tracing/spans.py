"""Spans of requests and jobs, and trace context propagation."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from starlette.types import Scope

from app.platform import about
from app.platform.base import context
from app.platform.observability.redaction import REDACTED, SECRET_NAME, redact_path, redact_text
from app.platform.observability.tracing import backend

NO_PARENT = Context()
_NOTHING = nullcontext()
RANDOM_BITS = 56  # the rightmost bits of a trace id (W3C Trace Context, level 2)


class Span(Protocol):
    """The span of a request, WebSocket or job, as the middleware and the job runner see it."""

    trace_id: str
    span_id: str
    sampled: bool

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """End the span of a request or WebSocket; ``route``: its template, "" if none matched."""


class IdsOnlySpan:
    """Ids for logs and other services, without a recorded span: the case of unsampled requests."""

    __slots__ = ("span_id", "trace_id")
    sampled = False

    def __init__(self, trace_id: str, span_id: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Do nothing: nothing was recorded."""


class RecordedSpan:
    """An OpenTelemetry span, current until it ends."""

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
        if status >= 500 or (error and status == 101):  # a WebSocket that failed was accepted
            self._set_error(type(error).__qualname__ if error else str(status))
        self.span.end()

    def end_job(self, error: BaseException | None) -> None:
        detach(self._token)
        if error is not None:
            self._set_error(type(error).__qualname__)
        self.span.end()

    def _set_error(self, reason: str) -> None:
        """Set the error's type. Its message, which may hold personal values, is in the log."""
        self.span.set_attribute("error.type", reason)
        self.span.set_status(StatusCode.ERROR)


UNTRACED = IdsOnlySpan("", "")


def threshold(ratio: float) -> int:
    """The value that the random bits of a trace id reach with the probability ``ratio``."""
    return round((1 - ratio) * (1 << RANDOM_BITS))


class Tracing:
    """The tracer of this process.

    ``ratio``: the share of traces starting here that are recorded. The trace id decides, so that
    services with the same ratio record the same traces. With ``follow_parent``, a trace from
    elsewhere is recorded if its parent is. ``set_next_trace_id``: sets the id of the next trace.
    """

    def __init__(
        self,
        provider: TracerProvider,
        set_next_trace_id: Callable[[int], None],
        ratio: float,
        follow_parent: bool,
    ) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer(about.NAME, about.version())
        fields = propagate.get_global_textmap().fields
        self.header_names = frozenset(name.lower().encode() for name in fields)
        self._set_next_trace_id = set_next_trace_id
        self._threshold = threshold(ratio)
        self._follow_parent = follow_parent

    def start(
        self, name: str, kind: SpanKind, around: Context = NO_PARENT
    ) -> IdsOnlySpan | RecordedSpan:
        """Start a trace; ``around``: a context without a span, such as one with baggage."""
        trace_id = backend.new_trace_id()
        if self._is_sampled(trace_id):
            self._set_next_trace_id(trace_id)
            return RecordedSpan(self.tracer.start_span(name, around, kind), around)
        span_id = random.getrandbits(64)
        if around:
            ids = SpanContext(trace_id, span_id, is_remote=False)
            return RecordedSpan(NonRecordingSpan(ids), around)
        return IdsOnlySpan(f"{trace_id:032x}", f"{span_id:016x}")

    def continue_trace(
        self, name: str, kind: SpanKind, parent: Context
    ) -> IdsOnlySpan | RecordedSpan:
        """Continue the trace of ``parent``, or start one if it has none."""
        remote = trace.get_current_span(parent).get_span_context()
        if not remote.is_valid:
            return self.start(name, kind, parent)
        follow = self._follow_parent
        if remote.trace_flags.sampled if follow else self._is_sampled(remote.trace_id):
            return RecordedSpan(self.tracer.start_span(name, parent, kind), parent)
        span_id = random.getrandbits(64)
        ids = SpanContext(remote.trace_id, span_id, is_remote=False, trace_state=remote.trace_state)
        return RecordedSpan(NonRecordingSpan(ids), parent)

    def _is_sampled(self, trace_id: int) -> bool:
        return trace_id & ((1 << RANDOM_BITS) - 1) >= self._threshold


class HeadersGetter(Getter[Mapping[bytes, bytes]]):
    """A getter for the trace context in a request's headers, which ASGI has in lower case."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode("latin-1"))
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]


GETTER = HeadersGetter()

# One per process while the service runs: jobs and clients have no app to get it from.
_tracing: Tracing | None = None


def current() -> Tracing | None:
    """The tracer of this process; ``None`` while the service is not running."""
    return _tracing


def set_current(tracing: Tracing | None) -> None:
    """Set the tracer of this process."""
    global _tracing
    _tracing = tracing


class CurrentTracerProvider(trace.TracerProvider):
    """OpenTelemetry's global provider: its spans belong to the service that is running.

    It can be set once per process, whereas each service that starts has a provider of its own.
    """

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return CurrentTracer(*args, **kwargs)


class CurrentTracer(trace.ProxyTracer):
    """A tracer of ``trace.get_tracer``, even one that a module has got at its import.

    The base class delegates each call to ``_tracer``, also where a span is used as a decorator.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arguments = (args, kwargs)
        self._provider: trace.TracerProvider | None = None

    @property
    def _tracer(self) -> trace.Tracer:
        if _tracing is None:
            return self._noop_tracer
        if _tracing.provider is not self._provider or self._real_tracer is None:
            args, kwargs = self._arguments
            self._provider = _tracing.provider
            self._real_tracer = self._provider.get_tracer(*args, **kwargs)
        return self._real_tracer


def server_span(scope: Scope, headers: Mapping[bytes, bytes]) -> Span:
    """Start the span of a request, in the trace of its caller if the headers name one.

    That of a WebSocket, whose handshake is a GET, lasts until it is closed.
    """
    if _tracing is None:
        return UNTRACED
    method = scope.get("method", "GET")
    if _tracing.header_names.isdisjoint(headers):
        entry = _tracing.start(method, SpanKind.SERVER)
    else:
        parent = propagate.extract(headers, NO_PARENT, GETTER)
        entry = _tracing.continue_trace(method, SpanKind.SERVER, parent)
    if isinstance(entry, RecordedSpan) and entry.sampled:
        # Without the query, which may hold secrets.
        entry.span.set_attributes(
            {
                "http.request.method": method,
                "url.path": redact_path(scope["path"]),
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
            }
        )
    return entry


@contextmanager
def job_span(name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
    """The span of a job, in the trace that ``carrier`` names, or in a new one."""
    if _tracing is None:
        yield UNTRACED
        return
    entry = _tracing.continue_trace(name, SpanKind.CONSUMER, propagate.extract(carrier, NO_PARENT))
    error: BaseException | None = None
    try:
        yield entry
    except BaseException as raised:
        error = raised
        raise
    finally:
        if isinstance(entry, RecordedSpan):
            entry.end_job(error)


def own_span(name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[None]:
    """The span of a block of a feature, if the request or job is recorded."""
    if _tracing is None or (context.current().trace_id and not _is_recording()):
        return _NOTHING
    return _own_span(_tracing, name, attributes)


@contextmanager
def _own_span(tracing: Tracing, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
    span = tracing.tracer.start_span(name, attributes=_redacted(attributes))
    token = attach(trace.set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        detach(token)
        span.end()


def set_attributes(attributes: Mapping[str, Any]) -> None:
    """Add attributes to the current span, if it is recorded."""
    if _is_recording():
        trace.get_current_span().set_attributes(_redacted(attributes))


def _is_recording() -> bool:
    return trace.get_current_span().is_recording()


def _redacted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _redact(name, value) for name, value in attributes.items()}


def _redact(name: str, value: Any) -> Any:
    if SECRET_NAME.search(name):
        return REDACTED
    return redact_text(value) if isinstance(value, str) else value


def inject() -> dict[str, str]:
    """The current trace context, to be passed to another process."""
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
