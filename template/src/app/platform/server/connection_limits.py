"""How long a connection is held: for what it may dawdle, and who makes room when there are many.

Uvicorn bounds none of this: a connection that says nothing, or never ends its head, is held for
ever, and an answer that nobody reads stays in memory. What takes time is looked at once a second
for all connections, so that it costs requests nothing. How a request is read is in protocol.py.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.http.access_log import PROBES
from app.platform.http.problems import problem
from app.platform.server.http_protocol import Protocol

# As Apache's RequestReadTimeout, which allows 20 seconds for a head, too.
HEAD_SECONDS = 20
# What a client leaves unread for so long it does not want; nginx's send_timeout is 60.
WRITE_SECONDS = 30
# How long who has just connected may take to begin a request, in a process that stops.
BEGIN_SECONDS = 2
PIPELINED = 64  # requests sent ahead on one connection; browsers and proxies send none


class Connection(Protocol):
    """One connection, with bounds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.made = self.loop.time()
        self.stall: asyncio.TimerHandle | None = None
        self.answering: Any = None
        if not self._made_room(self.app_state["settings"].max_connections):
            self.app = cast(Any, _Full(self.app))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_clock()
        if self.answering is not None:  # Uvicorn tells it only the request that was sent last
            self.answering.disconnected = True
            self.answering.message_event.set()

    @property
    def waiting(self) -> bool:
        """Whether nothing is asked here, or not to its end."""
        return self.cycle is None or self.cycle.response_complete

    def stuck(self, keep_alive: float) -> tuple[object, float] | None:
        """Return what the client should have gone on with, and the seconds that it has for that."""
        if self.timeout_keep_alive_task is not None or not self.waiting:
            return None
        if self.scope is None:
            return "nothing sent", keep_alive
        return self.scope, HEAD_SECONDS  # a head, or a body that came after its answer

    def give_up(self) -> None:
        """Close a connection that is stuck."""
        if self._in_head():
            self._refuse(408, "request_timeout", "The request did not arrive in time.")
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.pipeline) > PIPELINED:
            self.transport.abort()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_clock()
        self.stall = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_clock()

    def order(self) -> tuple[int, float]:
        return -self.spare(), self.made

    def spare(self) -> int:
        """Say how readily this connection makes room for another; 0: it is being worked for."""
        if self.waiting:
            return 3 if self.timeout_keep_alive_task is not None else 4
        if self.cycle.more_body and not self.cycle.response_started:
            return 2
        return 1 if self.flow.write_paused else 0

    def _made_room(self, most: int) -> bool:
        """Close what is needed least, the oldest first; say whether it was enough."""
        if len(self.connections) <= most:
            return True
        open_ones = [other for other in self.connections if not other.transport.is_closing()]
        too_many = len(open_ones) - most
        ours = (other for other in open_ones if isinstance(other, Connection) and other is not self)
        spare = sorted((other for other in ours if other.spare()), key=Connection.order)
        for other in spare[: max(0, too_many)]:
            other.transport.abort()
        return len(spare) >= too_many

    def _in_head(self) -> bool:
        return self.scope is not None and (
            self.cycle is None or cast(Any, self.cycle.scope) is not self.scope
        )

    def _stop_clock(self) -> None:
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None


def is_expected(connection: Any) -> bool:
    """Whether a connection is so new that its first request may be on its way."""
    if not isinstance(connection, Connection) or connection.scope is not None:
        return False
    return connection.loop.time() < connection.made + BEGIN_SECONDS


class _Full:
    """The app on a connection for which there was no room: it answers probes, and nothing else."""

    def __init__(self, app: Any) -> None:
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        headers = {"Retry-After": "1", "Connection": "close"}
        detail = "Too many connections at once; try again."
        await problem(503, "overloaded", detail, headers=headers)(scope, receive, send)


class Watch:
    """Looks after the connections of a process, and closes those that are stuck."""

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self._since: dict[Any, tuple[object, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        since = {}
        for connection in list(connections):
            found = self._stuck(connection)
            if found is None:
                continue
            what, bound = found
            known, start = self._since.get(connection, (None, now))
            since[connection] = what, start if known is what else now
            if now - since[connection][1] > bound:
                self._give_up(connection)
        self._since = since

    def _stuck(self, connection: Any) -> tuple[object, float] | None:
        if connection.transport.is_closing():  # what was written to it is not read
            return "closing", WRITE_SECONDS
        if isinstance(connection, Connection):
            return connection.stuck(self.keep_alive)
        return None

    def _give_up(self, connection: Any) -> None:
        if isinstance(connection, Connection) and not connection.transport.is_closing():
            connection.give_up()
        else:
            connection.transport.abort()
