"""Tracing, when there is none: the same names as with it, and nothing behind them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import Scope

from app.platform.settings import PlatformSettings


class Span:
    """Where work enters this process: nothing is recorded, so its ids are empty."""

    __slots__ = ()
    trace_id = ""
    span_id = ""
    sampled = False

    def end(self, method: str, route: str, status: int, error: BaseException | None) -> None:
        """Take note of how a request ended."""


UNTRACED = Span()


def server_span(scope: Scope, headers: Mapping[bytes, bytes]) -> Span:
    """Begin the span of a request."""
    return UNTRACED


@contextmanager
def job_span(name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
    """Run a job in the trace that ``carrier`` names."""
    yield UNTRACED


def inject() -> dict[str, str]:
    """Return what carries the current trace to another process."""
    return {}


def watch_engine(engine: Any) -> None:
    """Make a span of each statement of a SQLAlchemy engine."""


def watch_redis(client: Any) -> None:
    """Make a span of each command of a Redis client."""


def watch_http(client: Any) -> None:
    """Make a span of each request of an HTTP client."""


async def flush(seconds: float) -> None:
    """Send the spans that wait."""


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Trace nothing."""
