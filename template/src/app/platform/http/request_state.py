"""The state of one request, and the headers of every response."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from app.platform.base import context
from app.platform.observability import tracing

Header = tuple[bytes, bytes]


class RequestState(context.RequestContext):
    """The state of one request and its response; ``context.current()`` while it is handled.

    ``status``: 0 until the response starts. ``body_complete``: the whole body has been received.
    ``closing_stream``: the server is shutting down and ends the response, an event stream.
    """

    __slots__ = (
        "_client_bound",
        "_default_headers",
        "_ended",
        "_send",
        "body_complete",
        "closing_stream",
        "ended",
        "error",
        "expired",
        "response_headers",
        "scope",
        "span",
        "started",
        "status",
        "task",
    )

    def __init__(
        self,
        scope: Scope,
        span: tracing.Span,
        request_id: str,
        send: Send,
        default_headers: "DefaultHeaders",
        timeout: float,
        client_bound: "set[RequestState]",
    ) -> None:
        self.request_id = request_id
        self.trace_id = span.trace_id
        self.span_id = span.span_id
        self.user_id = None
        self.started = self.ended = monotonic()
        self.deadline = self.started + timeout
        self.read_lock = asyncio.Lock()
        self.scope = scope
        self.span = span
        self.status = 0
        self.error: BaseException | None = None
        self.expired = False
        self.task = asyncio.current_task()
        self.closing_stream = False
        self.body_complete = False
        self.response_headers: Sequence[Header] = ()
        self._send = send
        self._ended = False
        self._default_headers = default_headers
        self._client_bound = client_bound

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the default headers if it is the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.deadline = None  # none for the response itself, which may be a stream
            headers = self._default_headers.added_to(message.get("headers", []))
            headers.append((b"x-request-id", self.request_id.encode()))
            message["headers"] = self.response_headers = headers
            self._client_bound.add(self)
        elif self.scope["method"] == "HEAD" and message["type"] == "http.response.body":
            if self._ended:
                return
            # Complete at the first part: the rest of a stream is not waited for.
            message, self._ended = {"type": "http.response.body", "body": b""}, True
        await self._send(message)
        if message.get("more_body"):
            await asyncio.sleep(0)  # a stream that never waits would starve other requests

    async def receive(self, receive: Receive) -> Message:
        """Receive a part of the request.

        While waiting for the body, the request does not count towards ``max_in_flight``.
        """
        if self.status or self.body_complete:
            return await receive()
        self._client_bound.add(self)
        message = await receive()
        self.body_complete = not message.get("more_body", False)
        self._client_bound.discard(self)
        return message

    def close_event_stream(self) -> None:
        """End the response if it is an event stream: it never ends by itself; clients reconnect."""
        event_stream = any(
            name == b"content-type" and b"event-stream" in value
            for name, value in self.response_headers
        )
        if event_stream and self.task is not None:
            self.closing_stream = True
            self.task.cancel("The server is shutting down.")

    def cancel_overdue(self) -> None:
        """Cancel the request's task: its deadline has passed."""
        self.expired = True
        self.deadline = None
        if self.task is not None:
            self.task.cancel("The request exceeded its deadline.")


class DefaultHeaders:
    """Headers that every response gets unless it sets them itself."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._names = frozenset(name for name, _ in self._headers)

    def added_to(self, given: Sequence[Header]) -> list[Header]:
        """The headers ``given``, and the defaults that they lack."""
        for name, _ in given:
            if name in self._names:
                present = {name for name, _ in given}
                return [*given, *(each for each in self._headers if each[0] not in present)]
        return [*given, *self._headers]
