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
from functools import partial
from time import monotonic

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.http.access_log import PROBES, Journal
from app.platform.http.problems import ProblemResponse, problem
from app.platform.http.request_state import Exchange, Headers
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

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
        self, app: ASGIApp, in_flight: set[Exchange], journal: Journal, settings: PlatformSettings
    ) -> None:
        self.app = app
        self.limited = BodyLimit(app, settings.max_body_size)
        self.in_flight = in_flight
        self.journal = journal
        # Of those in flight, those that wait for their client: to send a body, to read an answer.
        self.waiting = set[Exchange]()
        self.max_in_flight = settings.max_in_flight
        self.websockets = 0
        self.max_websockets = settings.max_websockets
        self.timeout = settings.request_timeout
        production = settings.environment == "production"
        self.headers = Headers(HEADERS | HSTS if production else HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            with context.bind_request_context(request_id=_new_id()):
                await self._other(scope, receive, send)
            return
        headers = dict(scope["headers"])
        probe = scope["path"] in PROBES
        span = tracing.UNTRACED if probe else tracing.server_span(scope, headers)
        request_id = _request_id(headers)
        exchange = Exchange(scope, span, request_id, send, self.headers, self.timeout, self.waiting)
        token = context._request_context.set(exchange)
        self.in_flight.add(exchange)
        try:
            if len(self.in_flight) - len(self.waiting) > self.max_in_flight and not probe:
                await _too_busy()(scope, receive, exchange.send)
            elif b"content-length" in headers or b"transfer-encoding" in headers:
                await self.limited(scope, partial(exchange.receive, receive), exchange.send)
            else:
                await self.app(scope, receive, exchange.send)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 (the last resort)
            slow = exchange in self.waiting
            await _answer_for(exchange, error, slow)(scope, receive, exchange.send)
        finally:
            self.in_flight.discard(exchange)
            self.waiting.discard(exchange)
            self.journal.add(exchange)
            context._request_context.reset(token)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a WebSocket, if there are not too many, or the start and the end of the service."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
        elif self.websockets >= self.max_websockets:
            await _too_busy()(scope, receive, send)
        else:
            self.websockets += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.websockets -= 1


def _answer_for(exchange: Exchange, error: BaseException, slow: bool) -> ASGIApp:
    """Answer for an app that took too long or failed; raise if it is too late for an answer."""
    exchange.error = error
    if isinstance(error, asyncio.CancelledError):
        if not _by_us(exchange) or exchange.task is None:
            raise error
        exchange.task.uncancel()
        return _answer_for_cancelled(exchange, slow)
    logger.error("unhandled error", exc_info=error)
    if exchange.status:
        raise error  # the server cuts the connection, so that half an answer is not taken for one
    return problem(500, "internal_error", "Something went wrong on our side.")


def _by_us(exchange: Exchange) -> bool:
    """Whether a cancelled request can be answered: it was late, or the server stops."""
    if exchange.status:
        return exchange.ending
    return exchange.expired or bool(exchange.scope["app"].state.draining)


def _answer_for_cancelled(exchange: Exchange, slow: bool) -> ASGIApp:
    if exchange.ending:
        return _end
    if not exchange.expired:
        headers = {"Retry-After": "1"}
        return problem(503, "stopping", "This process stops; try again.", headers=headers)
    if slow:
        headers = {"Connection": "close"}
        return problem(408, "request_timeout", "The body did not arrive in time.", headers=headers)
    return problem(504, "timeout", "The request took too long and was given up.")


async def _end(scope: Scope, receive: Receive, send: Send) -> None:
    """End an answer where it is."""
    await send({"type": "http.response.body"})


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


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
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
