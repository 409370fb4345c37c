"""The request middleware: ids, span, access log, metrics, headers, limits, unhandled errors.

One pure ASGI middleware: all of these need the same facts (route, status and duration), and every
additional middleware costs each request time.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from time import monotonic

from anyio import BrokenResourceError
from fastapi import FastAPI
from starlette.exceptions import HTTPException  # noqa: TID251 (the framework raises it)
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.paths import route_path, set_prefix
from app.platform.base.tasks import cancel
from app.platform.http import json_body
from app.platform.http.access_log import PROBE_PATHS, AccessLog
from app.platform.http.headers import joined, refuse
from app.platform.http.problems import ProblemResponse, from_plain_text, problem
from app.platform.http.request_state import DefaultHeaders, RequestState
from app.platform.http.websocket_state import WebSocketState
from app.platform.observability import logs, tracing
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    # A response that its route marks otherwise may be stored; errors and personal data may not.
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # Responses are data: a browser that shows one as a page may load and run nothing.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
# Two years, as https://hstspreload.org requires; browsers ignore it on plain HTTP.
HSTS = {"strict-transport-security": "max-age=63072000; includeSubDomains"}


def default_headers(settings: PlatformSettings) -> DefaultHeaders:
    """The headers of every response, unless it sets them itself."""
    return DefaultHeaders(HEADERS | HSTS if settings.is_deployed else HEADERS)


class RequestMiddleware:
    """The middleware around every other one but CORS."""

    def __init__(
        self,
        app: ASGIApp,
        in_flight: set[RequestState],
        websockets: set[WebSocketState],
        access_log: AccessLog,
        settings: PlatformSettings,
    ) -> None:
        self.app = app
        self.body_limit = RequestBodyLimitMiddleware(app, settings.max_body_size)
        self.in_flight = in_flight
        self.access_log = access_log
        # Requests in flight that wait for their client to send the body or to read the response.
        self.client_bound = set[RequestState]()
        self.max_in_flight = settings.max_in_flight
        self.websockets = websockets
        self.max_websockets = settings.max_websockets
        self.timeout = settings.request_timeout
        self.root_path = settings.root_path
        self.headers = default_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            set_prefix(scope, self.root_path)
        if scope["type"] != "http":
            await (self._websocket if scope["type"] == "websocket" else self.app)(
                scope, receive, send
            )
            return
        headers = joined(scope["headers"])
        probe = route_path(scope) in PROBE_PATHS
        span = tracing.UNTRACED if probe else tracing.server_span(scope, headers)
        request_id = _request_id(headers)
        request = RequestState(
            scope, span, request_id, send, self.headers, self.timeout, self.client_bound
        )
        token = context._request_context.set(request)
        self.in_flight.add(request)
        try:
            if len(self.in_flight) - len(self.client_bound) > self.max_in_flight and not probe:
                await _overloaded()(scope, receive, request.send)
            elif refusal := refuse(scope["http_version"], scope["headers"], headers):
                await refusal(scope, receive, request.send)
            elif b"content-length" in headers or b"transfer-encoding" in headers:
                strict_receive = json_body.strict(headers, partial(request.receive, receive))
                await self.body_limit(scope, strict_receive, request.send)
            else:
                await self.app(scope, receive, request.send)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 (unhandled errors)
            awaiting_body = request in self.client_bound
            await _error_response(request, error, awaiting_body)(scope, receive, request.send)
        finally:
            self.in_flight.discard(request)
            self.client_bound.discard(request)
            self.access_log.record(request)
            context._request_context.reset(token)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a WebSocket within ``max_websockets``."""
        headers = joined(scope["headers"])
        span = tracing.server_span(scope, headers)
        websocket = WebSocketState(scope, span, _request_id(headers), send, self.headers)
        token = context._request_context.set(websocket)
        try:
            if len(self.websockets) >= self.max_websockets:
                await _overloaded()(scope, receive, websocket.send)
            else:
                self.websockets.add(websocket)
                await self.app(scope, partial(websocket.receive, receive), websocket.send)
                if not websocket.status:
                    raise RuntimeError("The route neither accepted nor refused the WebSocket.")
        except WebSocketDisconnect:
            pass  # the route did not wait for it
        except Exception as error:
            websocket.error = error
            logger.error("unhandled error", exc_info=error)
            await _internal_error()(scope, receive, websocket.send)
        finally:
            self.websockets.discard(websocket)
            self.access_log.record_websocket(websocket)
            context._request_context.reset(token)


def _error_response(request: RequestState, error: BaseException, awaiting_body: bool) -> ASGIApp:
    """The response to a request that failed or was cancelled; raises if a response has started.

    ``awaiting_body``: the client had not sent the whole body.
    """
    if request.status and _is_unread_event(error):
        return _unread_stream(request)
    request.error = error
    if isinstance(error, asyncio.CancelledError):
        if not _cancelled_by_server(request) or request.task is None:
            raise error
        request.task.uncancel()
        return _cancelled_response(request, awaiting_body)
    if refused := _refused_body(error):
        if not request.status:
            return from_plain_text(refused.status_code, refused.detail)
        logs.mark_as_logged(error)  # no fault of ours; the access log has the request
        raise error
    logger.error("unhandled error", exc_info=error)
    if request.complete:  # a background task failed
        return _nothing
    if request.status:
        logs.mark_as_logged(error)
        raise error  # the server aborts the connection, or a partial response would look complete
    return _internal_error()


def _is_unread_event(error: BaseException) -> bool:
    """Whether an event waited to be sent when its stream ended.

    The framework closes the reading end of an event stream before it stops the writing one, which
    fails with this if it is ahead of the client. The client has left, or the server shuts down.
    """
    return isinstance(error, BaseExceptionGroup) and not error.split(BrokenResourceError)[1]


def _unread_stream(request: RequestState) -> ASGIApp:
    if not request.closing_stream or request.task is None:
        return _nothing
    request.task.uncancel()
    return _end_response


def _refused_body(error: BaseException) -> HTTPException | None:
    """The refusal of a body that a stream received although its route reads none.

    A stream waits for its client to disconnect, and the framework has no response for what it gets
    instead.
    """
    cause = error.__cause__
    if not isinstance(error, RuntimeError) or not isinstance(cause, HTTPException):
        return None
    too_large = cause.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return cause if too_large or isinstance(cause, json_body.InvalidJson) else None


def _cancelled_by_server(request: RequestState) -> bool:
    """Whether the server cancelled the request, at its deadline or during shutdown."""
    if request.status:
        return request.closing_stream
    return request.expired or bool(request.scope["app"].state.draining)


def _cancelled_response(request: RequestState, awaiting_body: bool) -> ASGIApp:
    if request.closing_stream:
        return _end_response
    if not request.expired:
        headers = {"Retry-After": "1"}
        return problem(503, "stopping", "The server is shutting down; try again.", headers=headers)
    if awaiting_body:
        headers = {"Connection": "close"}
        return problem(408, "request_timeout", "The body did not arrive in time.", headers=headers)
    return problem(504, "timeout", "The request exceeded its deadline.")


def _internal_error() -> ProblemResponse:
    return problem(500, "internal_error", "Something went wrong on our side.")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Add nothing to a response that is complete, or that nobody reads."""


async def _end_response(scope: Scope, receive: Receive, send: Send) -> None:
    """End a response that has started."""
    await send({"type": "http.response.body"})


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's request id if it is safe to use in logs and headers, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return _new_id()


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"


def _overloaded() -> ProblemResponse:
    headers = {"Retry-After": "1"}
    return problem(503, "overloaded", "Too many concurrent requests; try again.", headers=headers)


async def _cancel_overdue(in_flight: set[RequestState], interval: float) -> None:
    """Cancel requests past their deadline; one timer for all is cheaper than one per request."""
    while True:
        await asyncio.sleep(interval)
        now = monotonic()
        for request in list(in_flight):
            if request.deadline is not None and request.deadline < now:
                request.cancel_overdue()


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.state.draining = False
    app.state.in_flight = in_flight = set[RequestState]()
    app.state.websockets = websockets = set[WebSocketState]()
    app.state.access_log = access_log = AccessLog(app.state, settings)
    app.add_middleware(
        RequestMiddleware,
        in_flight=in_flight,
        websockets=websockets,
        access_log=access_log,
        settings=settings,
    )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        interval = min(0.5, settings.request_timeout / 10)
        task = asyncio.create_task(_cancel_overdue(in_flight, interval))
        try:
            yield
        finally:
            access_log.flush()
            await cancel(task)

    return lifespan
