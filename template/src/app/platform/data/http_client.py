"""Outgoing HTTP: one client per process, with timeouts, a connection limit and deadlines.

``tracing`` adds the trace headers. There are no automatic retries: only the caller knows whether
a request is idempotent.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Annotated

import httpx2
from fastapi import Depends, FastAPI, Request

from app.platform import about
from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings


async def _client(request: Request) -> httpx2.AsyncClient:
    client: httpx2.AsyncClient = request.app.state.http
    return client


HttpClientDep = Annotated[httpx2.AsyncClient, Depends(_client)]


async def _propagate_context(request: httpx2.Request) -> None:
    """Forward the request id, and shorten timeouts to the deadline of the current request."""
    current = context.current()
    if current.request_id:
        request.headers["X-Request-ID"] = current.request_id
    if (remaining := current.remaining()) is not None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: min(seconds or remaining, remaining) for phase, seconds in limits.items()
        }


@cache
def _certificates() -> ssl.SSLContext:
    """The certificate authorities to trust: reading them takes 30 ms, so once a process."""
    return httpx2.create_ssl_context()


def create_client(settings: PlatformSettings) -> httpx2.AsyncClient:
    """A client that connects at first use."""
    return httpx2.AsyncClient(
        verify=_certificates(),
        timeout=settings.http_timeout,
        limits=httpx2.Limits(max_connections=settings.http_max_connections),
        headers={"User-Agent": f"{about.NAME}/{about.version()}"},
        event_hooks={"request": [_propagate_context]},
    )


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with create_client(settings) as app.state.http:
            tracing.instrument_http(app.state.http)
            yield

    return lifespan
