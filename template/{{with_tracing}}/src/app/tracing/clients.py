"""Spans of what requests and jobs ask of Postgres, Redis and other services."""

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span

from app.tracing.spans import active

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine


def watch_engine(engine: "AsyncEngine") -> None:
    """Make a span of each statement: its text, never its values.

    OpenTelemetry's own instrumentor does not know SQLAlchemy 2.1, and makes an object for each
    statement that nobody will record.
    """
    from sqlalchemy import event

    if (tracing := active()) is None:
        return
    tracer = tracing.tracer

    def before(_c: Any, _u: Any, statement: str, _p: Any, context: Any, _m: bool) -> None:
        if context is not None and get_current_span().is_recording():
            context.span = tracer.start_span(
                statement.split(None, 1)[0].upper(),
                kind=SpanKind.CLIENT,
                attributes={
                    "db.system.name": "postgresql",
                    "db.namespace": engine.url.database or "",
                    "db.query.text": statement,
                },
            )

    def after(_c: Any, _u: Any, _s: str, _p: Any, context: Any, _m: bool) -> None:
        if span := getattr(context, "span", None):
            span.end()

    def failed(error: Any) -> None:
        if span := getattr(error.execution_context, "span", None):
            span.set_attribute("error.type", type(error.original_exception).__qualname__)
            span.set_status(StatusCode.ERROR)
            span.end()

    event.listen(engine.sync_engine, "before_cursor_execute", before)
    event.listen(engine.sync_engine, "after_cursor_execute", after)
    event.listen(engine.sync_engine, "handle_error", failed)


def watch_redis(client: "Redis") -> None:
    """Make a span of each command: its name, never its values."""
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    if tracing := active():
        RedisInstrumentor.instrument_client(client, tracer_provider=tracing.provider)


def watch_http(client: "AsyncClient") -> None:
    """Make a span of each outgoing request, and pass the trace on."""
    from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor

    if tracing := active():
        HTTPX2ClientInstrumentor.instrument_client(
            client, tracer_provider=tracing.provider, request_hook=_without_query
        )


async def _without_query(span: Span, request: Any) -> None:
    """Leave out the query: secrets travel in it."""
    if span.is_recording():
        span.set_attribute("url.full", str(request.url).partition("?")[0])
