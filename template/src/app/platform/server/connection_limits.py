"""Limits of client connections: time-outs, pipelining, and eviction at capacity.

Uvicorn has none of these: a connection that sends nothing, or never finishes its headers, stays
open for ever, and a response or a message that is not read stays in memory. A reaper checks all
connections once a second, which costs less than a timer per request. The parser is in
``http_protocol``.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast
from uuid import uuid4

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.platform.base import context
from app.platform.base.paths import route_path, set_prefix
from app.platform.http.access_log import PROBE_PATHS
from app.platform.server.http_protocol import HttpProtocol, unrouted_problem
from app.platform.settings import PlatformSettings

# Seconds to send the headers, as in Apache's RequestReadTimeout.
HEADER_TIMEOUT = 20
# Seconds in which a client reads nothing of its response; nginx's send_timeout is 60.
WRITE_TIMEOUT = 30
# Seconds for a new connection to begin its first request while the process shuts down.
FIRST_REQUEST_TIMEOUT = 2
CLOSE = {"Connection": "close"}
MAX_PIPELINED = 64  # requests waiting on one connection; browsers and proxies pipeline none


class BoundedHttpProtocol(HttpProtocol):
    """One HTTP connection, with limits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connected_at = self.loop.time()
        self.write_timer: asyncio.TimerHandle | None = None
        self.running_cycle: Any = None
        if not self._evict_idle(self.app_state["settings"].max_connections):
            self.app = cast(Any, _OverCapacityApp(self.app, self.app_state["settings"]))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_write_timer()
        if self.running_cycle is not None:  # Uvicorn notifies only the last pipelined request
            self.running_cycle.disconnected = True
            self.running_cycle.message_event.set()

    @property
    def is_idle(self) -> bool:
        """Whether no complete request is being processed."""
        return self.cycle is None or self.cycle.response_complete

    def stalled_on(self, keep_alive: float) -> tuple[object, float] | None:
        """The data that the client has yet to send, and its time-out in seconds; else ``None``.

        The time-out runs for as long as the first item stays the same.
        """
        if self.timeout_keep_alive_task is not None or not self.is_idle:
            return None
        if self.scope is None:
            return "nothing sent", keep_alive
        # The rest of the headers, or of a body whose response has been sent already.
        return self.scope, HEADER_TIMEOUT

    def close_stalled(self) -> None:
        """Close a stalled connection, with a 408 if its headers are incomplete."""
        if self._in_headers():
            self._refuse(408, "request_timeout", "The request did not arrive in time.")
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self.write_timer = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def eviction_key(self) -> tuple[int, float]:
        """The sort key for eviction: by rank, highest first, then by age, oldest first."""
        return -self.eviction_rank(), self.connected_at

    def eviction_rank(self) -> int:
        """4: new or sending headers; 3: keep-alive; 2: sending a body; 1: not reading; 0: never."""
        if self.is_idle:
            return 3 if self.timeout_keep_alive_task is not None else 4
        if self.cycle.more_body and not self.cycle.response_started:
            return 2
        return 1 if self.flow.write_paused else 0

    def _evict_idle(self, limit: int) -> bool:
        """Close connections above ``limit``, by rank; return whether this one fits then."""
        if len(self.connections) <= limit:
            return True
        open_connections = [each for each in self.connections if not each.transport.is_closing()]
        excess = len(open_connections) - limit
        ours = (each for each in open_connections if isinstance(each, BoundedHttpProtocol))
        evictable = sorted(
            (each for each in ours if each is not self and each.eviction_rank()),
            key=BoundedHttpProtocol.eviction_key,
        )
        for connection in evictable[: max(0, excess)]:
            connection.transport.abort()
        return len(evictable) >= excess

    def _in_headers(self) -> bool:
        return self.scope is not None and (
            self.cycle is None or cast(Any, self.cycle.scope) is not self.scope
        )

    def _stop_write_timer(self) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket, with limits: its client has to read what is sent, and to answer pings."""

    write_timer: asyncio.TimerHandle | None = None

    def handle_connect(self, event: Any) -> None:
        """Begin the handshake; a problem document refuses one that is not valid."""
        self.conn.reject = partial(self._reject, self.conn.reject)  # type: ignore[method-assign]
        super().handle_connect(event)

    def _reject(self, reject: Callable[[int, str], Any], status: int, _text: str) -> Any:
        with context.bind_request_context(request_id=uuid4().hex):
            detail = "The handshake of the WebSocket is not valid."
            self.logger.warning("request refused: %s", detail)
            settings = self.app_state["settings"]
            refusal = unrouted_problem(status, "bad_request", detail, settings, CLOSE)
        response = reject(status, bytes(refusal.body).decode())
        response.headers.clear()
        for name, value in refusal.raw_headers:
            response.headers[name.decode()] = value.decode()
        return response

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_write_timer()

    def stalled_on(self) -> tuple[object, float] | None:
        """The handshake, if the app has yet to accept it, and its time-out in seconds."""
        timeout: float = self.app_state["settings"].request_timeout
        return None if self.handshake_complete else ("handshake", timeout)

    def keepalive_timeout(self) -> None:
        """Close the connection: its client did not answer a ping, and may not read either."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self.write_timer = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _stop_write_timer(self) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None


def is_awaiting_first_request(connection: Any) -> bool:
    """Whether a connection is new and its first request may still be in transit."""
    if not isinstance(connection, BoundedHttpProtocol) or connection.scope is not None:
        return False
    return connection.loop.time() < connection.connected_at + FIRST_REQUEST_TIMEOUT


class _OverCapacityApp:
    """The app of a connection above ``max_connections``: it serves probes only, or answers 503."""

    def __init__(self, app: Any, settings: PlatformSettings) -> None:
        self.app: ASGIApp = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        set_prefix(scope, self.settings.root_path)
        if route_path(scope) in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        headers = {"Retry-After": "1", **CLOSE}
        detail = "The server is at its connection limit; try again."
        with context.bind_request_context(request_id=uuid4().hex):
            refusal = unrouted_problem(503, "overloaded", detail, self.settings, headers)
        await refusal(scope, receive, send)


class ConnectionReaper:
    """Closes connections whose client has stalled for too long."""

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self._since: dict[Any, tuple[object, float]] = {}

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """Check every connection; ``now`` is the event loop's time."""
        since = {}
        for connection in list(connections):
            stalled_on = self._stalled_on(connection)
            if stalled_on is None:
                continue
            awaited, timeout = stalled_on
            previous, start = self._since.get(connection, (None, now))
            since[connection] = awaited, start if previous is awaited else now
            if now - since[connection][1] > timeout:
                self._close(connection)
        self._since = since

    def _stalled_on(self, connection: Any) -> tuple[object, float] | None:
        if connection.transport.is_closing():  # and its client has not read the last response yet
            return "closing", WRITE_TIMEOUT
        if isinstance(connection, BoundedHttpProtocol):
            return connection.stalled_on(self.keep_alive)
        return connection.stalled_on() if isinstance(connection, BoundedWebSocketProtocol) else None

    def _close(self, connection: Any) -> None:
        if isinstance(connection, BoundedHttpProtocol) and not connection.transport.is_closing():
            connection.close_stalled()
        else:
            connection.transport.abort()
