"""The null object of tracing: the same functions, without effect."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from starlette.types import Scope

from app.platform.settings import PlatformSettings


class Span:
    """A span that records nothing; its ids are empty."""

    __slots__ = ()
    trace_id = ""
    span_id = ""
    sampled = False

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """End the span."""


UNTRACED = Span()
_NOTHING = nullcontext()


def server_span(scope: Scope, headers: Mapping[bytes, bytes]) -> Span:
    """The span of a request."""
    return UNTRACED


@contextmanager
def job_span(name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
    """The span of a job."""
    yield UNTRACED


def own_span(name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[None]:
    """A span of a feature."""
    return _NOTHING


def set_attributes(attributes: Mapping[str, Any]) -> None:
    """Add attributes to the current span."""


def header_names() -> list[str]:
    """The headers that carry a trace from one service to another."""
    return ["traceparent", "tracestate"]


def inject() -> dict[str, str]:
    """The current trace context, to be passed to another process."""
    return {}


def instrument_engine(engine: Any) -> None:
    """Trace the statements of an engine."""


def statement_span(engine: Any, statement: str) -> AbstractContextManager[None]:
    """The span of a statement that runs on the driver."""
    return _NOTHING


def instrument_redis(client: Any) -> None:
    """Trace the commands of a Redis client."""


def instrument_http(client: Any, is_own: Callable[[str], bool]) -> None:
    """Trace the requests of an HTTP client."""


async def flush(seconds: float) -> None:
    """Export pending spans."""


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Set up nothing."""


class NotExported(Exception):
    """Never raised."""


async def check_export(settings: PlatformSettings) -> str:
    """What happens to spans."""
    return "none"
