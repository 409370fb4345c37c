"""CORS for the origins in ``CORS_ORIGINS``.

The outermost middleware, so that pages can read every response, errors included.
"""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

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


def _allowed_headers(app: FastAPI) -> tuple[str, ...]:
    headers: tuple[str, ...] = getattr(app.state, "cors_headers", ALLOW_HEADERS)
    return headers


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_allow_credentials,
            allow_methods=METHODS,
            allow_headers=(*_allowed_headers(app), *tracing.header_names()),
            expose_headers=EXPOSE_HEADERS,
            max_age=MAX_AGE,
        )
