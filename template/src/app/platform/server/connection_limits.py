"""Limits of a client's connection: time-outs, pipelining, and eviction at capacity.

Uvicorn has none of these: a connection that sends nothing, or never finishes its headers, stays
open for ever, and a response that is not read stays in memory. A reaper checks all connections once
a second, so that a request pays nothing for it. Parsing is in ``http_protocol``.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.http.access_log import PROBE_PATHS
from app.platform.http.problems import problem
from app.platform.server.http_protocol import HttpProtocol

# Seconds to send the headers, as in Apache's RequestReadTimeout.
HEADER_TIMEOUT = 20
# Seconds during which a client reads nothing of its response; nginx's send_timeout is 60.
WRITE_TIMEOUT = 30
# Seconds that a new connection has to begin its first request while the process shuts down.
FIRST_REQUEST_TIMEOUT = 2
MAX_PIPELINED = 64  # requests sent ahead on one connection; browsers and proxies send none


class BoundedHttpProtocol(HttpProtocol):
    """One HTTP connection, with limits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connected_at = self.loop.time()
        self.write_timer: asyncio.TimerHandle | None = None
        self.answered_cycle: Any = None
        if not self._evict_idle(self.app_state["settings"].max_connections):
            self.app = cast(Any, _OverCapacityApp(self.app))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_write_timer()
        if self.answered_cycle is not None:  # Uvicorn notifies only the last pipelined request
            self.answered_cycle.disconnected = True
            self.answered_cycle.message_event.set()

    @property
    def is_idle(self) -> bool:
        """Whether no complete request is being processed."""
        return self.cycle is None or self.cycle.response_complete

    def stalled_on(self, keep_alive: float) -> tuple[object, float] | None:
        """What the client has yet to send, and the seconds that it has for it; ``None``: nothing.

        The first item identifies the wait: as long as it stays the same, its clock runs on.
        """
        if self.timeout_keep_alive_task is not None or not self.is_idle:
            return None
        if self.scope is None:
            return "nothing sent", keep_alive
        return (
            self.scope,
            HEADER_TIMEOUT,
        )  # headers, or a body that is still sent after its response

    def close_stalled(self) -> None:
        """Close a connection whose client took too long: with a 408 while headers are awaited."""
        if self._in_headers():
            self._refuse(408, "request_timeout", "The request did not arrive in time.")
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.answered_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self.write_timer = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def eviction_key(self) -> tuple[int, float]:
        """The sort key of eviction: the highest rank first, and the oldest of a rank."""
        return -self.eviction_rank(), self.connected_at

    def eviction_rank(self) -> int:
        """Eviction rank: 4 new or sending headers, 3 keep-alive, 2 body, 1 unread, 0 never."""
        if self.is_idle:
            return 3 if self.timeout_keep_alive_task is not None else 4
        if self.cycle.more_body and not self.cycle.response_started:
            return 2
        return 1 if self.flow.write_paused else 0

    def _evict_idle(self, limit: int) -> bool:
        """Close the connections above ``limit`` by rank; tell whether that made enough room."""
        if len(self.connections) <= limit:
            return True
        open_ones = [other for other in self.connections if not other.transport.is_closing()]
        excess = len(open_ones) - limit
        others = (each for each in open_ones if isinstance(each, BoundedHttpProtocol))
        evictable = sorted(
            (each for each in others if each is not self and each.eviction_rank()),
            key=BoundedHttpProtocol.eviction_key,
        )
        for other in evictable[: max(0, excess)]:
            other.transport.abort()
        return len(evictable) >= excess

    def _in_headers(self) -> bool:
        return self.scope is not None and (
            self.cycle is None or cast(Any, self.cycle.scope) is not self.scope
        )

    def _stop_write_timer(self) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None


def is_awaiting_first_request(connection: Any) -> bool:
    """Whether a connection is so new that its first request may still be on its way."""
    if not isinstance(connection, BoundedHttpProtocol) or connection.scope is not None:
        return False
    return connection.loop.time() < connection.connected_at + FIRST_REQUEST_TIMEOUT


class _OverCapacityApp:
    """The app of a connection above ``max_connections``: it serves probes, and answers 503."""

    def __init__(self, app: Any) -> None:
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        headers = {"Retry-After": "1", "Connection": "close"}
        detail = "The server is at its connection limit; try again."
        await problem(503, "overloaded", detail, headers=headers)(scope, receive, send)


class ConnectionReaper:
    """Closes connections whose client has stalled for too long."""

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self._since: dict[Any, tuple[object, float]] = {}

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """Check every connection; ``now`` is the event loop's time."""
        since = {}
        for connection in list(connections):
            found = self._stalled_on(connection)
            if found is None:
                continue
            awaited, timeout = found
            known, start = self._since.get(connection, (None, now))
            since[connection] = awaited, start if known is awaited else now
            if now - since[connection][1] > timeout:
                self._close(connection)
        self._since = since

    def _stalled_on(self, connection: Any) -> tuple[object, float] | None:
        if connection.transport.is_closing():  # its client does not read the rest
            return "closing", WRITE_TIMEOUT
        if isinstance(connection, BoundedHttpProtocol):
            return connection.stalled_on(self.keep_alive)
        return None

    def _close(self, connection: Any) -> None:
        if isinstance(connection, BoundedHttpProtocol) and not connection.transport.is_closing():
            connection.close_stalled()
        else:
            connection.transport.abort()
