"""The state of one WebSocket: how its handshake was answered, and how it ended."""

from collections.abc import Mapping
from http import HTTPStatus
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from app.platform.base import context
from app.platform.http.problems import problem
from app.platform.http.request_state import DefaultHeaders
from app.platform.observability import tracing

DENIAL = "websocket.http.response"  # the ASGI extension: any response to a handshake
# Close codes (RFC 6455, section 7.4.1) in place of a status after the handshake.
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
CLOSE_CODES: Mapping[int, int] = {HTTPStatus.SERVICE_UNAVAILABLE: 1013}  # try again later


class WebSocketState(context.RequestContext):
    """The state of one WebSocket; ``context.current()`` while it is open.

    ``status``: of the response to the handshake, 101 once it is accepted; 0 until then.
    ``close_code``: 0 while it is open, and after a refused handshake. ``error``: what ended it.
    ``received``, ``sent``: messages.
    """

    __slots__ = (
        "_default_headers",
        "_send",
        "close_code",
        "error",
        "handshake_ended",
        "received",
        "scope",
        "sent",
        "span",
        "started",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        span: tracing.Span,
        request_id: str,
        send: Send,
        default_headers: DefaultHeaders,
    ) -> None:
        super().__init__(request_id, span.trace_id, span.span_id)
        self.scope = scope
        self.span = span
        self.error: BaseException | None = None
        self.status = self.close_code = self.received = self.sent = 0
        self.started = self.handshake_ended = monotonic()
        self._send = send
        self._default_headers = default_headers

    async def receive(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "websocket.receive":
            self.received += 1
        elif message["type"] == "websocket.disconnect" and not self.close_code:
            self.close_code = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, in the form that the state of the WebSocket allows.

        A refusal is a problem document before the handshake, and a close code after it.
        """
        kind = message["type"]
        if kind == "websocket.send":
            await self._send(message)
            self.sent += 1
        elif kind == "websocket.accept":
            self._end_handshake(HTTPStatus.SWITCHING_PROTOCOLS)
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            await self._send({**message, "headers": headers})
        elif kind == "websocket.close":
            await self._close(message)
        elif kind == f"{DENIAL}.start":
            await self._respond(message)
        elif kind != f"{DENIAL}.body" or self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            await self._send(message)

    async def _close(self, message: Message) -> None:
        if self.status:
            self.close_code = self.close_code or message.get("code", 1000)
            await self._send(message)
            return
        detail = message.get("reason") or "The WebSocket was refused."
        await problem(403, "forbidden", detail)(self.scope, _no_message, self.send)

    async def _respond(self, message: Message) -> None:
        """Refuse the handshake with a response; close the WebSocket if it is open."""
        status: int = message["status"]
        if self.status:
            failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
            code = CLOSE_CODES.get(status, INTERNAL_ERROR if failed else POLICY_VIOLATION)
            await self._close({"type": "websocket.close", "code": code})
            return
        self._end_handshake(status)
        headers = self._default_headers.added_to(message.get("headers", []))
        headers.append((b"x-request-id", self.request_id.encode()))
        await self._send({**message, "headers": headers})

    def _end_handshake(self, status: int) -> None:
        self.status = status
        self.handshake_ended = monotonic()


async def _no_message() -> Message:
    return {"type": "websocket.disconnect"}
