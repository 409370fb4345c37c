"""CORS for the origins in ``CORS_ORIGINS``.

The outermost middleware, so that pages can read every response, errors included.
"""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.platform.settings import PlatformSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ALLOW_HEADERS = (
    "Authorization",
    "If-Match",
    "If-None-Match",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
EXPOSE_HEADERS = (
    "Deprecation",
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Sunset",
    "X-Request-ID",
)
MAX_AGE = 600  # seconds for which browsers cache a preflight response


def allow(app: FastAPI, header: str) -> None:
    """Add ``header`` to the allowed request headers; call it from an earlier component's setup."""
    app.state.cors_headers = (*getattr(app.state, "cors_headers", ALLOW_HEADERS), header)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_allow_credentials,
            allow_methods=METHODS,
            allow_headers=getattr(app.state, "cors_headers", ALLOW_HEADERS),
            expose_headers=EXPOSE_HEADERS,
            max_age=MAX_AGE,
        )
