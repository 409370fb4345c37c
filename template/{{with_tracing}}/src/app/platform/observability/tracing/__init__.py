"""Traces: a span for each request and job, and for what they ask of Postgres, Redis and others.

A trace starts at a request or a job, and whether it is recorded is decided before the SDK makes
anything: what is not recorded costs next to nothing, and still has ids for logs and other services.
Spans leave in batches from a thread of their own. A collector that is away costs a bounded queue
(``OTEL_BSP_MAX_QUEUE_SIZE`` spans, 2048) and a line in the log each minute.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.platform.base.components import Lifespan
from app.platform.observability.tracing import provider
from app.platform.observability.tracing.clients import watch_engine, watch_http, watch_redis
from app.platform.observability.tracing.spans import (
    UNTRACED,
    Span,
    activate,
    active,
    inject,
    job_span,
    server_span,
)
from app.platform.settings import PlatformSettings

__all__ = [
    "UNTRACED",
    "Span",
    "flush",
    "inject",
    "job_span",
    "server_span",
    "setup",
    "watch_engine",
    "watch_http",
    "watch_redis",
]

LAST_EXPORT = 5.0  # seconds that the last spans have to leave, at shutdown


async def flush(seconds: float) -> None:
    """Send the spans that wait, for so long: this process may be frozen before their time."""
    if tracing := active():
        # Left behind like the last export: the next one takes what it could not send.
        export = threading.Thread(target=tracing.provider.force_flush, daemon=True)
        export.start()
        await asyncio.to_thread(export.join, seconds)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    provider.hush()
    provider.sender(settings)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        tracing = provider.start(settings)
        activate(tracing)
        try:
            yield
        finally:
            activate(None)
            # A thread that may be left behind: a collector that hangs must not hold up the exit.
            last_export = threading.Thread(target=tracing.provider.shutdown, daemon=True)
            last_export.start()
            await asyncio.to_thread(last_export.join, LAST_EXPORT)

    return lifespan
