"""Spans of what requests and jobs ask of Postgres, Redis and other services."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from sqlalchemy import event

from app.platform.observability.tracing.spans import active

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine


def watch_engine(engine: "AsyncEngine") -> None:
    """Make a span of each statement: its text, never its values.

    OpenTelemetry's own instrumentor does not know SQLAlchemy 2.1, and makes an object for each
    statement that nobody will record. The dialect's events are cheaper than those of the engine.
    """
    if (tracing := active()) is None:
        return
    tracer, dialect = tracing.tracer, engine.sync_engine.dialect

    def watch(name: str, run: Callable[..., None]) -> None:
        def traced(cursor: Any, statement: str, values: Any, context: Any) -> bool:
            if not get_current_span().is_recording():
                return False  # the dialect runs it
            with _statement(tracer, statement, engine.url.database or ""):
                run(cursor, statement, values, context)
            return True

        event.listen(engine.sync_engine, name, traced)

    watch("do_execute", dialect.do_execute)
    watch("do_executemany", dialect.do_executemany)


@contextmanager
def _statement(tracer: Tracer, statement: str, database: str) -> Iterator[None]:
    attributes = {
        "db.system.name": "postgresql",
        "db.namespace": database,
        "db.query.text": statement,
    }
    name = statement.split(None, 1)[0].upper()
    span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        span.end()


def watch_redis(client: "Redis") -> None:
    """Make a span of each command: its name, never its values."""
    if tracing := active():
        RedisInstrumentor.instrument_client(client, tracer_provider=tracing.provider)


def watch_http(client: "AsyncClient") -> None:
    """Make a span of each outgoing request, and pass the trace on."""
    if tracing := active():
        HTTPX2ClientInstrumentor.instrument_client(
            client, tracer_provider=tracing.provider, request_hook=_without_query
        )


async def _without_query(span: Span, request: Any) -> None:
    """Leave out the query: secrets travel in it."""
    if span.is_recording():
        span.set_attribute("url.full", str(request.url).partition("?")[0])
