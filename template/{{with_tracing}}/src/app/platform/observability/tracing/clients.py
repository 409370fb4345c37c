"""Client spans: Postgres, Redis and outgoing HTTP."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from sqlalchemy import event

from app.platform.observability.tracing.spans import current

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from redis.asyncio import Redis
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


def instrument_engine(engine: "AsyncEngine") -> None:
    """Trace the statements of an engine: their text, never their values.

    OpenTelemetry's instrumentor does not support SQLAlchemy 2.1, and creates objects for unsampled
    statements too. The dialect's events are cheaper than the engine's.
    """
    if (tracing := current()) is None:
        return
    tracer, dialect = tracing.tracer, engine.sync_engine.dialect

    def trace_event(name: str, run: Callable[..., None]) -> None:
        def traced(cursor: Any, statement: str, values: Any, context: Any) -> bool:
            if not get_current_span().is_recording():
                return False  # the dialect runs it
            with _statement(tracer, statement, engine.url.database or ""):
                run(cursor, statement, values, context)
            return True

        event.listen(engine.sync_engine, name, traced)

    trace_event("do_execute", dialect.do_execute)
    trace_event("do_executemany", dialect.do_executemany)


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


_UNTRACED = nullcontext()


def statement_span(engine: "Engine", statement: str) -> AbstractContextManager[None]:
    """The span of a statement that runs on the driver, past the events of SQLAlchemy."""
    if (tracing := current()) is None or not get_current_span().is_recording():
        return _UNTRACED
    return _statement(tracing.tracer, statement, engine.url.database or "")


def instrument_redis(client: "Redis") -> None:
    """Trace the commands of a client: their names, never their values."""
    if tracing := current():
        RedisInstrumentor.instrument_client(client, tracer_provider=tracing.provider)


def instrument_http(client: "AsyncClient") -> None:
    """Trace the requests of a client, and pass the trace context on."""
    if tracing := current():
        HTTPX2ClientInstrumentor.instrument_client(
            client, tracer_provider=tracing.provider, request_hook=_without_query
        )


async def _without_query(span: Span, request: Any) -> None:
    """Remove the query, which may hold secrets."""
    if span.is_recording():
        span.set_attribute("url.full", str(request.url).partition("?")[0])
