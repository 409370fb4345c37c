"""CORS for the origins in ``CORS_ORIGINS``.

The outermost middleware, so that pages can read every response, errors included.
"""

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from app.platform.observability import tracing
from app.platform.settings import PlatformSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Beside those that every page may send, among them Content-Type.
ALLOW_HEADERS = (
    "Authorization",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
# Beside those that every page may read, among them Cache-Control and Last-Modified.
EXPOSE_HEADERS = (
    "Allow",
    "Deprecation",
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Sunset",
    "WWW-Authenticate",
    "X-Request-ID",
)
MAX_AGE = 600  # seconds for which browsers cache a preflight response


def allow(app: FastAPI, header: str) -> None:
    """Add ``header`` to the allowed request headers; call it from an earlier component's setup."""
    app.state.cors_headers = (*_allowed_headers(app), header)


def expose(app: FastAPI, header: str) -> None:
    """Let pages read ``header`` of responses; call it from an earlier component's setup."""
    app.state.cors_exposed = (*_exposed_headers(app), header)


def _allowed_headers(app: FastAPI) -> tuple[str, ...]:
    headers: tuple[str, ...] = getattr(app.state, "cors_headers", ALLOW_HEADERS)
    return headers


def _exposed_headers(app: FastAPI) -> tuple[str, ...]:
    headers: tuple[str, ...] = getattr(app.state, "cors_exposed", EXPOSE_HEADERS)
    return headers


class CorsHeaders(CORSMiddleware):
    """Adds the headers that let pages of other origins read a response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self.app if _is_preflight(scope) else super().__call__
        await handler(scope, receive, send)


class Preflights(CORSMiddleware):
    """Answers preflight requests, inside of the request middleware: with an id and a log line."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = super().__call__ if _is_preflight(scope) else self.app
        await handler(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    if scope.get("method") != "OPTIONS":  # a WebSocket has none
        return False
    return {b"origin", b"access-control-request-method"} <= {name for name, _ in scope["headers"]}


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if settings.cors_origins:
        options: dict[str, Any] = {
            "allow_origins": settings.cors_origins,
            "allow_credentials": settings.cors_allow_credentials,
            "allow_methods": METHODS,
            "allow_headers": (*_allowed_headers(app), *tracing.header_names()),
            "expose_headers": _exposed_headers(app),
            "max_age": MAX_AGE,
        }
        app.user_middleware.insert(1, Middleware(Preflights, **options))
        app.add_middleware(CorsHeaders, **options)
