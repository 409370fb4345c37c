"""What Gunicorn runs the service with: a worker that drains before it stops, and our log lines.

The settings of the server are in ``gunicorn.conf.py``.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from app.platform.server.connection_limits import Connection, Watch, is_expected
from app.platform.settings import PlatformSettings

# Of the seconds that Gunicorn gives a worker to stop, those for closing its pools and for the last
# spans to leave. What drains and what is in flight share the rest.
LIFESPAN_TIMEOUT = 7
ROLLBACK_TIMEOUT = 1  # of these, for requests that were cut to end their transactions
SIGN_OF_LIFE = 5  # seconds between two; also how soon an orphaned worker notices


def drain_seconds(settings: PlatformSettings) -> float:
    """Return how long the service goes on after SIGTERM, so that load balancers notice."""
    if settings.drain_seconds is not None:
        return settings.drain_seconds
    return 5.0 if settings.environment == "production" else 0.0


class DrainingServer(Server):
    """Uvicorn's server, which says that it will go before it goes.

    On SIGTERM ``/health/ready`` answers 503, and each answer closes its connection, so that clients
    and load balancers find another process. After that no new connection is taken, requests may
    end, and what does not is cut: else Gunicorn would kill the process, with its pools open. On
    SIGINT and SIGQUIT all that is at once. A process that has answered its ``max_requests`` stays
    ready until nobody is left who was not told.
    """

    app: Any
    drain: float
    grace: float
    told: set[Any] | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.watch = Watch(config.timeout_keep_alive)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not kept for later, as Uvicorn does: the process would die of it, after its clean stop.
        if sig == signal.SIGINT:
            self.quit()
        elif self.drain and not self.should_exit and not self.app.state.draining:
            self.app.state.draining = True
            self._tell()
            asyncio.get_running_loop().call_later(self.drain, self._stop)
        else:
            self._stop()

    def quit(self) -> None:
        """Stop now, and in order."""
        self.grace = 0
        self._stop()

    def _stop(self) -> None:
        self.app.state.draining = True
        self.should_exit = True

    def _tell(self) -> None:
        """Let each answer close its connection."""
        if self.told is None:
            self.told = set(self.server_state.connections)
            closing = (b"connection", b"close")
            self.config.encoded_headers.append(closing)
            self.server_state.default_headers = [*self.server_state.default_headers, closing]

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        if counter % 10 == 0:
            self.watch.look(self.server_state.connections, now)
        if await super().on_tick(counter) and not self.should_exit:  # max_requests
            self.limit_max_requests = None
            self._tell()
            # By then who has said nothing is cut anyway.
            self.gone_at = now + self.config.timeout_keep_alive
        return self.should_exit or self._retired(now)

    def _retired(self, now: float) -> bool:
        """Whether all are gone who were there when the process had answered its requests."""
        if self.told is None or self.app.state.draining:
            return False
        self.told &= self.server_state.connections
        return not self.told or now > self.gone_at

    async def shutdown(self, sockets: Any = None) -> None:
        await self._close_listeners(sockets or ())
        if self.told is not None and self.grace:
            await self._hear()
        for exchange in list(self.app.state.in_flight):
            exchange.end_events()
        await super().shutdown()

    async def _close_listeners(self, sockets: Iterable[Any]) -> None:
        """Close them, and take those in who were in front of the door."""
        waiting: list[socket.socket] = []
        doors: list[socket.socket] = []
        with suppress(OSError):  # without descriptors nobody can be let in either
            doors += [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        for door in doors:
            with suppress(OSError):
                while len(waiting) < self.config.backlog:
                    waiting.append(door.accept()[0])
            door.close()  # at once: who comes in between is turned away
        for accepted in waiting:
            accepted.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection, accepted, ssl=self.config.ssl
            )

    async def _hear(self) -> None:
        """Let open connections say what they were opened for; new ones may take longer."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.sleep(0.5)
        while any(map(is_expected, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.grace -= loop.time() - start

    def _connection(self) -> asyncio.Protocol:
        state = self.lifespan.state
        return Connection(self.config, self.server_state, state)

    async def _wait_tasks_to_complete(self) -> None:
        """Wait for what is in flight; cut the rest, and let it roll back before the pools close."""
        state, loop = self.server_state, asyncio.get_running_loop()
        start = loop.time()
        while (state.connections or state.tasks) and loop.time() < start + self.grace:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        cut = set(state.tasks)
        for task in cut:
            task.cancel("The server stops.")
        if cut:
            await asyncio.wait(cut, timeout=ROLLBACK_TIMEOUT)


class Worker(UvicornWorker):  # type: ignore[misc]  # its package has no types
    """One process of the API."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Back to our handlers: the worker has just given Uvicorn those of Gunicorn.
        logging.getLogger("uvicorn.error").propagate = True
        self.config.access_log = False
        self.config.server_header = False
        self.config.timeout_notify = SIGN_OF_LIFE
        self.config.http = Connection

    def init_process(self) -> None:
        # What was made before the fork stays for good: it is not worth looking at again, and
        # looking would copy its memory. The rest is looked at more rarely, which is faster.
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        super().init_process()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self.config)
        server.app = self.wsgi
        server.drain = drain_seconds(self.wsgi.state.settings)
        server.grace = max(1, self.cfg.graceful_timeout - server.drain - LIFESPAN_TIMEOUT)
        # Gunicorn's handler only notes the signal, and the process would be killed in the end.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        # Not in Gunicorn's wrapping, which logs an error when uvloop has closed what is in it.
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            raise SystemExit(3)  # Gunicorn's code for a worker that can't start: it stops, too

    async def callback_notify(self) -> None:
        """Give a sign of life; stop when there is nobody left to give it to."""
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)
        self.notify()


class GunicornLogger(Logger):
    """Sends Gunicorn's own lines the way of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
