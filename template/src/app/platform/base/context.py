"""Whose work the code is doing: the ids of the request or job, and how long it may still take.

One context variable holds one small object. Code that runs for a request reads it with
``current()``; every log line, error and outgoing call carries what it says.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class RequestContext:
    """The ids of one request or job. An empty string: there is none.

    ``deadline`` is a time of ``time.monotonic``, in seconds.
    """

    __slots__ = ("deadline", "request_id", "span_id", "trace_id", "user_id")

    def __init__(
        self,
        request_id: str = "",
        trace_id: str = "",
        span_id: str = "",
        user_id: str | None = None,
        deadline: float | None = None,
    ) -> None:
        self.request_id = request_id
        self.trace_id = trace_id
        self.span_id = span_id
        self.user_id = user_id
        self.deadline = deadline

    def remaining(self) -> float | None:
        """Return the seconds left until the deadline, at least 0; ``None``: there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


_request_context: ContextVar[RequestContext] = ContextVar("request_context")


def current() -> RequestContext:
    """Return the context of this request or job; outside of both, an empty one."""
    return _request_context.get(None) or RequestContext()


@contextmanager
def bind_request_context(
    *,
    request_id: str = "",
    trace_id: str = "",
    span_id: str = "",
    user_id: str | None = None,
    deadline: float | None = None,
) -> Iterator[RequestContext]:
    """Run a block of code for a request or job that came another way than by HTTP."""
    context = RequestContext(request_id, trace_id, span_id, user_id, deadline)
    token = _request_context.set(context)
    try:
        yield context
    finally:
        _request_context.reset(token)
