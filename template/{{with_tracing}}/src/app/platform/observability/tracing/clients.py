"""Client spans: Postgres, Redis and outgoing HTTP."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from sqlalchemy import event

from app.platform.observability.tracing.spans import current

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport, AsyncClient, Request, Response
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


def instrument_http(client: "AsyncClient", is_own: Callable[[str], bool]) -> None:
    """Trace the requests of a client, and pass the trace context on to hosts that ``is_own``."""
    if tracing := current():
        for transport in (client._transport, *client._mounts.values()):
            if transport is not None:
                _remove_trace_for_others(transport, is_own)
        HTTPX2ClientInstrumentor.instrument_client(
            client, tracer_provider=tracing.provider, request_hook=_describe
        )


def _remove_trace_for_others(
    transport: "AsyncBaseTransport", is_own: Callable[[str], bool]
) -> None:
    """Remove the headers of the instrumentor, and baggage, from requests to foreign hosts."""
    send, names = transport.handle_async_request, propagate.get_global_textmap().fields

    async def handle_async_request(request: "Request") -> "Response":
        if not is_own(request.url.host):
            for name in names:
                request.headers.pop(name, None)
        return await send(request)

    transport.handle_async_request = handle_async_request  # type: ignore[method-assign]


async def _describe(span: Span, request: Any) -> None:
    """Remove the query, which may hold secrets, and set the extension ``span_attributes``."""
    if span.is_recording():
        span.set_attribute("url.full", str(request.url).partition("?")[0])
        span.set_attributes((request.extensions or {}).get("span_attributes", {}))
