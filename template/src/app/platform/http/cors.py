"""Which other sites' pages may call this service from a browser: those of ``CORS_ORIGINS``.

The outermost layer, so that a page can read every answer, an error of the layer below too.
"""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.platform.settings import PlatformSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = ("Authorization", "If-Match", "If-None-Match", "X-Request-ID", "traceparent", "tracestate")
READ = (
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
REMEMBERED = 600  # seconds for which a browser need not ask again before each call


def allow(app: FastAPI, header: str) -> None:
    """Let those pages send ``header`` too. It is for parts that are installed before this one."""
    app.state.cors_headers = (*getattr(app.state, "cors_headers", SENT), header)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_allow_credentials,
            allow_methods=METHODS,
            allow_headers=getattr(app.state, "cors_headers", SENT),
            expose_headers=READ,
            max_age=REMEMBERED,
        )
