"""The one layer around every request: ids, span, log line, metrics, headers, limits, last resort.

One layer, and plain ASGI, because each further one costs every request, and because all of these
want to know the same things: the route, the status, the time it took.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
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

Header = tuple[bytes, bytes]


class Exchange:
    """One request and its answer, on their way through the layer."""

    __slots__ = ("_headers", "_send", "context", "error", "expired", "status", "task")

    def __init__(self, current: context.RequestContext, send: Send, headers: list[Header]) -> None:
        self.context = current
        self.status = 0  # until the answer begins
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
            self.context.deadline = None
            given = message.get("headers", ())
            names = {name for name, _ in given}
            ours = [header for header in self._headers if header[0] not in names]
            request_id = self.context.request_id.encode()
            message["headers"] = [*given, *ours, (b"x-request-id", request_id)]
        await self._send(message)

    def expire(self) -> None:
        """Give the request up: its code is cancelled wherever it waits."""
        self.expired = True
        self.context.deadline = None
        if self.task is not None:
            self.task.cancel("The request took too long.")


class RequestLayer:
    """Sees every request first and every answer last."""

    def __init__(self, app: ASGIApp, state: Any, settings: Settings) -> None:
        self.app = app
        self.limited = RequestBodyLimitMiddleware(app, settings.max_body_size)
        self.state = state
        self.in_flight: set[Exchange] = state.in_flight
        self.max_in_flight = settings.max_in_flight
        self.timeout = settings.request_timeout
        self.log_share = settings.log_request_share
        self.log_probes = settings.log_level == "DEBUG"
        self.write = logs.request_writer(settings)
        production = settings.environment == "production"
        headers = HEADERS | HSTS if production else HEADERS
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            with context.use(request_id=_new_id()):
                await self.app(scope, receive, send)
            return
        started = monotonic()
        headers = dict(scope["headers"])
        probe = scope["path"] in PROBES
        span = tracing.UNTRACED if probe else tracing.server_span(scope, headers)
        current = context.RequestContext(
            _request_id(headers), span.trace_id, span.span_id, None, started + self.timeout
        )
        exchange = Exchange(current, send, self.headers)
        token = context.VARIABLE.set(current)
        self.in_flight.add(exchange)
        try:
            if len(self.in_flight) > self.max_in_flight and not probe:
                await _too_busy()(scope, receive, exchange.send)
            elif b"content-length" in headers or b"transfer-encoding" in headers:
                await self._answer(self.limited, scope, receive, exchange)
            else:
                await self._answer(self.app, scope, receive, exchange)
        finally:
            self.in_flight.discard(exchange)
            self._record(scope, exchange, span, monotonic() - started, probe)
            context.VARIABLE.reset(token)

    async def _answer(
        self, app: ASGIApp, scope: Scope, receive: Receive, exchange: Exchange
    ) -> None:
        """Run the app; answer for it when it took too long or failed."""
        try:
            await app(scope, receive, exchange.send)
            return
        except asyncio.CancelledError as cancelled:
            if not exchange.expired or exchange.status:
                raise
            exchange.error = cancelled
            if exchange.task is not None:
                exchange.task.uncancel()
            response = problem(504, "timeout", "The request took too long and was given up.")
        except Exception as error:
            exchange.error = error
            logger.exception("unhandled error")
            if exchange.status:
                raise  # too late for another answer: the server cuts the connection
            response = problem(500, "internal_error", "Something went wrong on our side.")
        await response(scope, receive, exchange.send)

    def _record(
        self, scope: Scope, exchange: Exchange, span: Any, seconds: float, probe: bool
    ) -> None:
        """Say what came of it: to the span, the metrics and the log."""
        method, route, status = scope["method"], scope.get(TEMPLATE, ""), exchange.status or 500
        span.end(method, route, status, exchange.error)
        trace_id = span.trace_id if span.sampled else ""
        self.state.metrics.observe(method, route, status, seconds, trace_id)
        if status < 500 and not (self._chosen(status) if not probe else self.log_probes):
            return
        current = exchange.context
        fields: dict[str, Any] = {
            "timestamp": datetime.now(UTC),
            "level": "info" if status < 500 else "error",
            "event": "request",
            "logger": "app.request",
            "method": method,
            "route": route,
            "path": logs.scrub(scope["path"]),
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "request_id": current.request_id,
        }
        if current.trace_id:
            fields["trace_id"], fields["span_id"] = current.trace_id, current.span_id
        if current.user_id:
            fields["user_id"] = current.user_id
        self.write(fields)

    def _chosen(self, status: int) -> bool:
        """Tell whether a request gets a line: each that failed, and a share of the others."""
        return status >= 400 or self.log_share >= 1 or random.random() < self.log_share  # noqa: S311


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
            deadline = exchange.context.deadline
            if deadline is not None and deadline < now:
                exchange.expire()


def install(app: FastAPI, settings: Settings) -> Lifespan:
    app.state.in_flight = in_flight = set[Exchange]()
    app.add_middleware(RequestLayer, state=app.state, settings=settings)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        interval = min(0.5, settings.request_timeout / 10)
        watch = asyncio.create_task(_give_up_overdue(in_flight, interval))
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    return lifespan
