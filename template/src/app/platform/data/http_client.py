"""Outgoing HTTP: one client a process, with time-outs, limits, and the request's deadline.

Trace headers are added by ``tracing``. Retries are the caller's choice: only what is idempotent may
be sent twice.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """Pass on the request's id, and wait no longer than its caller will."""
    current = context.current()
    if current.request_id:
        request.headers["X-Request-ID"] = current.request_id
    if (remaining := current.remaining()) is not None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: min(seconds or remaining, remaining) for phase, seconds in limits.items()
        }


def create_client(settings: PlatformSettings) -> httpx2.AsyncClient:
    """Make the client. It connects when it is first used."""
    return httpx2.AsyncClient(
        timeout=settings.http_timeout,
        limits=httpx2.Limits(max_connections=settings.http_max_connections),
        headers={"User-Agent": f"{about.NAME}/{about.version()}"},
        event_hooks={"request": [_propagate_context]},
    )


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with create_client(settings) as app.state.http:
            tracing.watch_http(app.state.http)
            yield

    return lifespan
