"""The one layer around every request: ids, span, log line, metrics, headers, limits, last resort.

One layer, and plain ASGI, because each further one costs every request, and because all of these
want to know the same things: the route, the status, the time it took.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import context, logs, tracing
from app.errors import ProblemResponse, problem
from app.lifespan import Lifespan
from app.metrics import PATH as METRICS
from app.routing import TEMPLATE
from app.settings import Settings

logger = logging.getLogger(__name__)

# Asked for every few seconds: answered even at the limit, not traced, logged only at DEBUG.
PROBES = frozenset({"/health/live", "/health/ready", "/health/startup", METRICS})
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # An API's answers are data: a browser that shows one as a page may load and run nothing.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
# Two years, as https://hstspreload.org asks; ignored by browsers on plain HTTP.
HSTS = {"strict-transport-security": "max-age=63072000; includeSubDomains"}

FLUSH_AFTER = 0.2  # seconds that a request waits, at most, to be written down
BATCH = 256  # requests

Header = tuple[bytes, bytes]


class Exchange(context.RequestContext):
    """One request on its way in and its answer on the way out; what ``context.current()`` returns.

    ``status`` is 0 until the answer begins.
    """

    __slots__ = (
        "_headers",
        "_send",
        "ended",
        "error",
        "expired",
        "scope",
        "span",
        "started",
        "status",
        "task",
    )

    def __init__(
        self,
        scope: Scope,
        span: tracing.Span,
        request_id: str,
        send: Send,
        headers: "Headers",
        timeout: float,
    ) -> None:
        self.request_id = request_id
        self.trace_id = span.trace_id
        self.span_id = span.span_id
        self.user_id = None
        self.started = self.ended = monotonic()
        self.deadline = self.started + timeout
        self.scope = scope
        self.span = span
        self.status = 0
        self.error: BaseException | None = None
        self.expired = False
        self.task = asyncio.current_task()
        self._send = send
        self._headers = headers

    async def send(self, message: Message) -> None:
        """Pass the answer on, with our headers where it has none of its own by that name."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # An answer that has begun may take its time: it may be a stream.
            self.deadline = None
            headers = self._headers.added_to(message.get("headers", []))
            headers.append((b"x-request-id", self.request_id.encode()))
            message["headers"] = headers
        await self._send(message)

    def expire(self) -> None:
        """Give the request up: its code is cancelled wherever it waits."""
        self.expired = True
        self.deadline = None
        if self.task is not None:
            self.task.cancel("The request took too long.")


class Headers:
    """The headers of every answer that has none of its own by that name."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._ours = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._names = frozenset(name for name, _ in self._ours)

    def added_to(self, given: Sequence[Header]) -> list[Header]:
        for name, _ in given:
            if name in self._names:
                theirs = {name for name, _ in given}
                return [*given, *(header for header in self._ours if header[0] not in theirs)]
        return [*given, *self._ours]


class Journal:
    """Writes down what became of each request, in the metrics and the log, a batch at a time.

    Code that runs once in a while is slow each time: the CPU has forgotten it. A batch takes a
    third of the time. Errors are written down at once.
    """

    def __init__(self, state: Any, settings: Settings) -> None:
        self._state = state
        self._write = logs.request_writer(settings)
        self._share = settings.log_request_share
        self._log_probes = settings.log_level == "DEBUG"
        self._ended: list[Exchange] = []
        self._scheduled = False

    def add(self, exchange: Exchange) -> None:
        """Finish the span of a request, and write the request down soon."""
        exchange.ended = monotonic()
        scope, span = exchange.scope, exchange.span
        if span.span_id:
            route, status = scope.get(TEMPLATE, ""), exchange.status or 500
            span.end(scope["method"], route, status, exchange.error)
        self._ended.append(exchange)
        if exchange.status >= 500 or len(self._ended) >= BATCH:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Write down the requests that ended since the last time."""
        self._scheduled = False
        ended, self._ended = self._ended, []
        now, clock = datetime.now(UTC), monotonic()
        for exchange in ended:
            scope, status = exchange.scope, exchange.status or 500
            method, route = scope["method"], scope.get(TEMPLATE, "")
            seconds = exchange.ended - exchange.started
            trace_id = exchange.trace_id if exchange.span.sampled else ""
            self._state.metrics.observe(method, route, status, seconds, trace_id)
            if status >= 400 or self._chosen(scope["path"]):
                ended_at = now - timedelta(seconds=clock - exchange.ended)
                self._write(_line(exchange, method, route, status, seconds, ended_at))
        logs.output.flush()

    def _chosen(self, path: str) -> bool:
        """Tell whether a request that went well gets a line in the log."""
        if path in PROBES:
            return self._log_probes
        return self._share >= 1 or random.random() < self._share  # noqa: S311


def _line(
    exchange: Exchange, method: str, route: str, status: int, seconds: float, ended_at: datetime
) -> dict[str, Any]:
    fields = {
        "timestamp": ended_at,
        "level": "info" if status < 500 else "error",
        "event": "request",
        "logger": "app.request",
        "method": method,
        "route": route,
        "path": logs.scrub_path(exchange.scope["path"]),
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "request_id": exchange.request_id,
    }
    if exchange.trace_id:
        fields["trace_id"] = exchange.trace_id
        fields["span_id"] = exchange.span_id
    if exchange.user_id:
        fields["user_id"] = exchange.user_id
    return fields


class BodyLimit(RequestBodyLimitMiddleware):
    """Refuses bodies that are too large; one that nobody reads, too, and as a problem."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = b""

        async def send_problem(message: Message) -> None:
            nonlocal refusal
            plain = (b"content-type", b"text/plain; charset=utf-8")
            if message.get("status") == 413 and plain in message["headers"]:
                response = problem(413, "content_too_large", "The body is larger than is allowed.")
                refusal = bytes(response.body)
                message["headers"] = response.raw_headers
            elif refusal:
                message["body"] = refusal
            await send(message)

        await super().__call__(scope, receive, send_problem)


class RequestLayer:
    """Sees every request first and every answer last."""

    def __init__(
        self, app: ASGIApp, in_flight: set[Exchange], journal: Journal, settings: Settings
    ) -> None:
        self.app = app
        self.limited = BodyLimit(app, settings.max_body_size)
        self.in_flight = in_flight
        self.journal = journal
        self.max_in_flight = settings.max_in_flight
        self.timeout = settings.request_timeout
        production = settings.environment == "production"
        self.headers = Headers(HEADERS | HSTS if production else HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            with context.use(request_id=_new_id()):
                await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        probe = scope["path"] in PROBES
        span = tracing.UNTRACED if probe else tracing.server_span(scope, headers)
        request_id = _request_id(headers)
        exchange = Exchange(scope, span, request_id, send, self.headers, self.timeout)
        token = context.VARIABLE.set(exchange)
        self.in_flight.add(exchange)
        try:
            if len(self.in_flight) > self.max_in_flight and not probe:
                await _too_busy()(scope, receive, exchange.send)
            else:
                await self._chosen(headers)(scope, receive, exchange.send)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 (the last resort)
            await _answer_for(exchange, error)(scope, receive, exchange.send)
        finally:
            self.in_flight.discard(exchange)
            self.journal.add(exchange)
            context.VARIABLE.reset(token)

    def _chosen(self, headers: Mapping[bytes, bytes]) -> ASGIApp:
        """Count the bytes of a body only where there is one."""
        if b"content-length" in headers or b"transfer-encoding" in headers:
            return self.limited
        return self.app


def _answer_for(exchange: Exchange, error: BaseException) -> ProblemResponse:
    """Answer for an app that took too long or failed; raise if it is too late for an answer."""
    exchange.error = error
    if isinstance(error, asyncio.CancelledError):
        if not exchange.expired or exchange.status or exchange.task is None:
            raise error  # it is the server that stops
        exchange.task.uncancel()
        return problem(504, "timeout", "The request took too long and was given up.")
    logger.error("unhandled error", exc_info=error)
    if exchange.status:
        raise error  # the server cuts the connection, so that half an answer is not taken for one
    return problem(500, "internal_error", "Something went wrong on our side.")


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """Keep the caller's id if it is one that is safe to repeat in a log and a header."""
    given = headers.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return _new_id()


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"


def _too_busy() -> ProblemResponse:
    headers = {"Retry-After": "1"}
    return problem(503, "overloaded", "Too many requests at once; try again.", headers=headers)


async def _give_up_overdue(in_flight: set[Exchange], interval: float) -> None:
    """Cancel requests that are past their deadline: one clock for all is cheaper than one each."""
    while True:
        await asyncio.sleep(interval)
        now = monotonic()
        for exchange in list(in_flight):
            if exchange.deadline is not None and exchange.deadline < now:
                exchange.expire()


def install(app: FastAPI, settings: Settings) -> Lifespan:
    app.state.draining = False
    app.state.in_flight = in_flight = set[Exchange]()
    app.state.journal = journal = Journal(app.state, settings)
    app.add_middleware(RequestLayer, in_flight=in_flight, journal=journal, settings=settings)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        interval = min(0.5, settings.request_timeout / 10)
        watch = asyncio.create_task(_give_up_overdue(in_flight, interval))
        try:
            yield
        finally:
            journal.flush()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    return lifespan
