"""One request and its answer, as the layer around them sees them."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from app.platform.base import context
from app.platform.observability import tracing

Header = tuple[bytes, bytes]


class Exchange(context.RequestContext):
    """One request on its way in and its answer on the way out; what ``context.current()`` returns.

    ``status`` is 0 until the answer begins.
    """

    __slots__ = (
        "_headers",
        "_send",
        "_waiting",
        "answer",
        "ended",
        "ending",
        "error",
        "expired",
        "scope",
        "span",
        "started",
        "status",
        "task",
        "whole",
    )

    def __init__(
        self,
        scope: Scope,
        span: tracing.Span,
        request_id: str,
        send: Send,
        headers: "Headers",
        timeout: float,
        waiting: "set[Exchange]",
    ) -> None:
        self.request_id = request_id
        self.trace_id = span.trace_id
        self.span_id = span.span_id
        self.user_id = None
        self.started = self.ended = monotonic()
        self.deadline = self.started + timeout
        self.scope = scope
        self.span = span
        self.status = 0
        self.error: BaseException | None = None
        self.expired = False
        self.task = asyncio.current_task()
        self.ending = False
        self.whole = False
        self.answer: Sequence[Header] = ()
        self._send = send
        self._headers = headers
        self._waiting = waiting

    async def send(self, message: Message) -> None:
        """Pass the answer on, with our headers where it has none of its own by that name."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # An answer that has begun may take its time: it may be a stream.
            self.deadline = None
            headers = self._headers.added_to(message.get("headers", []))
            headers.append((b"x-request-id", self.request_id.encode()))
            message["headers"] = self.answer = headers
            self._waiting.add(self)
        await self._send(message)
        if message.get("more_body"):
            await asyncio.sleep(0)  # or a stream that never waits has the process to itself

    async def receive(self, receive: Receive) -> Message:
        """Take in more of the request; until it is all there, it is its client who is at work."""
        if self.status or self.whole:
            return await receive()
        self._waiting.add(self)
        message = await receive()
        self.whole = not message.get("more_body", False)
        self._waiting.discard(self)
        return message

    def end_events(self) -> None:
        """End the answer if it is a stream of events, which has no end: clients then reconnect."""
        events = (name == b"content-type" and b"event-stream" in of for name, of in self.answer)
        if any(events) and self.task is not None:
            self.ending = True
            self.task.cancel("The server stops.")

    def expire(self) -> None:
        """Give the request up: its code is cancelled wherever it waits."""
        self.expired = True
        self.deadline = None
        if self.task is not None:
            self.task.cancel("The request took too long.")


class Headers:
    """The headers of every answer that has none of its own by that name."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._ours = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._names = frozenset(name for name, _ in self._ours)

    def added_to(self, given: Sequence[Header]) -> list[Header]:
        for name, _ in given:
            if name in self._names:
                theirs = {name for name, _ in given}
                return [*given, *(header for header in self._ours if header[0] not in theirs)]
        return [*given, *self._ours]
