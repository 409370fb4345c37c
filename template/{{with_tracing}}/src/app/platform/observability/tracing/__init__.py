"""Tracing: spans of requests and jobs, and of their calls to Postgres, Redis and other services.

Sampling is decided at the entry, before the SDK creates anything: an unsampled request costs next
to nothing, and still has ids for logs and other services. A background thread exports spans in
batches. An unavailable collector costs a bounded queue (``OTEL_BSP_MAX_QUEUE_SIZE``, 2048 spans)
and one log line a minute.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from opentelemetry import propagate

from app.platform.base.components import Lifespan
from app.platform.base.threads import run_in_daemon_thread
from app.platform.observability.tracing import provider
from app.platform.observability.tracing.clients import (
    instrument_engine,
    instrument_http,
    instrument_redis,
    statement_span,
)
from app.platform.observability.tracing.export_check import NotExported, check_export
from app.platform.observability.tracing.spans import (
    UNTRACED,
    Span,
    current,
    inject,
    job_span,
    own_span,
    server_span,
    set_attributes,
    set_current,
)
from app.platform.settings import PlatformSettings

__all__ = [
    "UNTRACED",
    "NotExported",
    "Span",
    "check_export",
    "flush",
    "header_names",
    "inject",
    "instrument_engine",
    "instrument_http",
    "instrument_redis",
    "job_span",
    "own_span",
    "server_span",
    "set_attributes",
    "setup",
    "statement_span",
]

SHUTDOWN_TIMEOUT = 5.0  # seconds to export the last spans


def header_names() -> list[str]:
    """The headers that carry a trace from one service to another."""
    return sorted(propagate.get_global_textmap().fields)


async def flush(seconds: float) -> None:
    """Export pending spans within ``seconds``: this process may be frozen before the next batch."""
    if tracing := current():
        # Abandoned after the time-out; the next export takes what is left.
        await run_in_daemon_thread(tracing.provider.force_flush, seconds)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    provider.set_propagators()
    provider.throttle_exporter_logs()
    provider.span_processor_factory(settings)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        tracing = provider.start(settings)
        set_current(tracing)
        try:
            yield
        finally:
            set_current(None)
            # A collector that hangs must not delay the exit.
            await run_in_daemon_thread(tracing.provider.shutdown, SHUTDOWN_TIMEOUT)

    return lifespan
