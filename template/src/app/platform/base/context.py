"""The request context: ids and deadline of the current request or job.

Log lines, problem documents and outgoing calls carry the ids; ``current()`` returns the context.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class RequestContext:
    """The ids of one request or job; an empty string where there is none.

    ``deadline`` is a time of ``time.monotonic``, in seconds. ``read_lock`` is held while the
    request or job reads from the database outside of a transaction. ``log_fields``: added to the
    log line of the whole request, WebSocket or job; ``None`` until something is added.
    ``has_written``: whether it may have written to the database, so that it reads from the primary.
    """

    __slots__ = (
        "_name",
        "deadline",
        "has_written",
        "log_fields",
        "read_lock",
        "request_id",
        "span_id",
        "trace_id",
        "user_id",
    )

    def __init__(
        self,
        request_id: str = "",
        trace_id: str = "",
        span_id: str = "",
        user_id: str | None = None,
        deadline: float | None = None,
        name: str = "",
    ) -> None:
        self._name = name
        self.request_id = request_id
        self.trace_id = trace_id
        self.span_id = span_id
        self.user_id = user_id
        self.deadline = deadline
        self.log_fields: dict[str, Any] | None = None
        self.read_lock = asyncio.Lock()
        self.has_written = False

    @property
    def name(self) -> str:
        """The route, as ``GET /orders/{order_id}``, or the name of the job; "" if there is none."""
        return self._name

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; ``None`` without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


_request_context: ContextVar[RequestContext] = ContextVar("request_context")


def current() -> RequestContext:
    """The context of the current request or job; outside of both, an empty one."""
    return _request_context.get(None) or RequestContext()


def current_or_none() -> RequestContext | None:
    """The context of the current request or job; ``None`` outside of both."""
    return _request_context.get(None)


@contextmanager
def bind_request_context(
    *,
    request_id: str = "",
    trace_id: str = "",
    span_id: str = "",
    user_id: str | None = None,
    deadline: float | None = None,
    name: str = "",
) -> Iterator[RequestContext]:
    """Bind a context for a block of code, such as a job or a WebSocket."""
    context = RequestContext(request_id, trace_id, span_id, user_id, deadline, name)
    token = _request_context.set(context)
    try:
        yield context
    finally:
        _request_context.reset(token)
