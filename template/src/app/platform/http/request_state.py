"""The state of one request, and the headers of every response."""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from app.platform.base import context
from app.platform.http.cache_policy import with_policy
from app.platform.http.problems import from_plain_text
from app.platform.http.routing import ROUTE_TEMPLATE_KEY
from app.platform.observability import tracing

Header = tuple[bytes, bytes]


class RequestState(context.RequestContext):
    """The state of one request and its response; ``context.current()`` while it is handled.

    ``status``: 0 until the response starts. ``body_complete``: the whole body has been received.
    ``complete``: the whole response has been sent.
    ``closing_stream``: the server is shutting down and ends the response, an event stream.
    """

    __slots__ = (
        "_client_bound",
        "_default_headers",
        "_ended",
        "_plain_error",
        "_send",
        "body_complete",
        "closing_stream",
        "complete",
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
        self.log_fields = None
        self.read_lock = asyncio.Lock()
        self.has_written = False
        self.scope = scope
        self.span = span
        self.status = 0
        self.error: BaseException | None = None
        self.expired = False
        self.task = asyncio.current_task()
        self.closing_stream = False
        self.complete = False
        self.body_complete = False
        self.response_headers: Sequence[Header] = ()
        self._send = send
        self._plain_error: Message | None = None
        self._ended = False
        self._default_headers = default_headers
        self._client_bound = client_bound

    @property
    def name(self) -> str:
        return f"{self.scope['method']} {self.scope.get(ROUTE_TEMPLATE_KEY, '')}".rstrip()

    async def send(self, message: Message) -> None:
        """Send a part of the response.

        Errors of the framework in plain text, or without a body, become problem documents.
        """
        if message["type"] == "http.response.start" and _is_plain_error(message):
            self._plain_error = message
        elif self._plain_error is None:
            await self._send_part(message)
        elif not self.status:
            for part in _as_problem(self._plain_error, message):
                await self._send_part(part)

    async def _send_part(self, message: Message) -> None:
        """Send a part of the response, with the default headers if it is the first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.deadline = None  # none for the response itself, which may be a stream
            given = with_policy(
                self.scope, self.status, message.get("headers", []), self.user_id is not None
            )
            headers = self._default_headers.added_to(given)
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
        elif message["type"] == "http.response.body":
            self.complete = True

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


def _is_plain_error(start: Message) -> bool:
    if start["status"] < HTTPStatus.BAD_REQUEST:
        return False
    types = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return not types or types[0].startswith(b"text/plain")


def _as_problem(start: Message, body: Message) -> tuple[Message, Message]:
    """The parts of a problem document in place of those of a plain error."""
    response = from_plain_text(start["status"], body.get("body", b"").decode(errors="replace"))
    replaced = {b"content-type", b"content-length"}
    kept = [each for each in start.get("headers", ()) if each[0].lower() not in replaced]
    return (
        {**start, "headers": [*response.raw_headers, *kept]},
        {"type": "http.response.body", "body": bytes(response.body)},
    )


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
