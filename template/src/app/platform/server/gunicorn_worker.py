"""Gunicorn's worker and logger: draining before shutdown, and log lines in the service's format.

Gunicorn's configuration is in ``gunicorn.conf.py``.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from app.platform.base.threads import exit_process
from app.platform.server.connection_limits import (
    BoundedHttpProtocol,
    BoundedWebSocketProtocol,
    ConnectionReaper,
    is_awaiting_first_request,
)
from app.platform.settings import PlatformSettings

# Seconds of Gunicorn's graceful timeout for closing pools and exporting the last spans; draining
# and requests in flight share the rest.
LIFESPAN_TIMEOUT = 7
ROLLBACK_TIMEOUT = 1  # seconds of these, for cancelled requests to roll back
HEARTBEAT_INTERVAL = 5  # seconds; an orphaned worker stops within it


@cache
def metrics_folder(parent: str | None) -> str:
    """A new folder for the workers' metrics; the same one when SIGHUP reloads the configuration."""
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix="metrics-", dir=parent)


def take_over_signals(arbiter: Any) -> None:
    """End this forked worker if it has been told to stop; from now on, a signal to stop ends it.

    Until then it has the handlers of Gunicorn's arbiter, which only queue a signal: without this, a
    worker that is stopped just after the fork would continue until it is killed.
    """
    stopping = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    for number in stopping:
        signal.signal(number, signal.SIG_DFL)
    while not arbiter.SIG_QUEUE.empty():
        if arbiter.SIG_QUEUE.get() in stopping:
            raise SystemExit


def drain_seconds(settings: PlatformSettings) -> float:
    """Seconds between SIGTERM and the end of accepting, for load balancers to stop routing here."""
    if settings.drain_seconds is not None:
        return settings.drain_seconds
    return 5.0 if settings.is_deployed else 0.0


class DrainingServer(Server):
    """Uvicorn's server, with a drain phase: it announces shutdown before it stops accepting.

    On SIGTERM ``/health/ready`` answers 503 and every response closes its connection, so that
    clients and load balancers move to another process. Then the listeners close, requests in flight
    finish, and those that do not are cancelled before Gunicorn would kill the process with its
    pools open. SIGINT and SIGQUIT skip the drain phase. A process that has served ``max_requests``
    stays ready until every connection has been sent ``Connection: close``.
    """

    app: Any
    drain: float
    grace: float
    notified: set[Any] | None = None  # connections that were open at the announcement
    retire_at: float

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reaper = ConnectionReaper(config.timeout_keep_alive)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not Uvicorn's: it raises the signal again after shutdown, and that would kill the process.
        if sig == signal.SIGINT:
            self.quit()
        elif self.drain and not self.should_exit and not self.app.state.draining:
            self.app.state.draining = True
            self._announce_close()
            asyncio.get_running_loop().call_later(self.drain, self._stop)
        else:
            self._stop()

    def quit(self) -> None:
        """Shut down without draining."""
        self.grace = 0
        self._stop()

    def _stop(self) -> None:
        self.app.state.draining = True
        self.should_exit = True

    def _announce_close(self) -> None:
        """Send ``Connection: close`` with every response from now on."""
        if self.notified is None:
            self.notified = set(self.server_state.connections)
            closing = (b"connection", b"close")
            self.config.encoded_headers.append(closing)
            self.server_state.default_headers = [*self.server_state.default_headers, closing]

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        if counter % 10 == 0:
            self.reaper.sweep(self.server_state.connections, now)
        if await super().on_tick(counter) and not self.should_exit:  # max_requests
            self.limit_max_requests = None
            self._announce_close()
            # By then every silent connection has reached its keep-alive time-out.
            self.retire_at = now + self.config.timeout_keep_alive
        return self.should_exit or self._retired(now)

    def _retired(self, now: float) -> bool:
        """Whether every connection that was open when ``max_requests`` was reached has closed."""
        if self.notified is None or self.app.state.draining:
            return False
        self.notified &= self.server_state.connections
        return not self.notified or now > self.retire_at

    async def shutdown(self, sockets: Any = None) -> None:
        await self._close_listeners(sockets or ())
        if self.notified is not None and self.grace:
            await self._await_first_requests()
        for request in list(self.app.state.in_flight):
            request.close_event_stream()
        await super().shutdown()

    async def _close_listeners(self, sockets: Iterable[Any]) -> None:
        """Close the listeners after accepting what is already in their backlog."""
        waiting: list[socket.socket] = []
        duplicates: list[socket.socket] = []
        with suppress(OSError):  # without free descriptors, nothing can be accepted either
            duplicates += [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        for duplicate in duplicates:
            with suppress(OSError):
                while len(waiting) < self.config.backlog:
                    waiting.append(duplicate.accept()[0])
            duplicate.close()  # at once: later connections are refused
        for accepted in waiting:
            accepted.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._create_protocol, accepted, ssl=self.config.ssl
            )

    async def _await_first_requests(self) -> None:
        """Wait for the first requests of new connections; their time counts as grace."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.sleep(0.5)
        while any(map(is_awaiting_first_request, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.grace -= loop.time() - start

    def _create_protocol(self) -> asyncio.Protocol:
        return BoundedHttpProtocol(self.config, self.server_state, self.lifespan.state)

    async def _wait_tasks_to_complete(self) -> None:
        """Wait for requests in flight; cancel the rest while there is time to roll back."""
        state, loop = self.server_state, asyncio.get_running_loop()
        start = loop.time()
        while (state.connections or state.tasks) and loop.time() < start + self.grace:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        cancelled = set(state.tasks)
        for task in cancelled:
            task.cancel("The server is shutting down.")
        if cancelled:
            await asyncio.wait(cancelled, timeout=ROLLBACK_TIMEOUT)


class Worker(UvicornWorker):  # type: ignore[misc]  # its package has no types
    """One worker process of the API."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The base class has just given Uvicorn's logger Gunicorn's handlers.
        logging.getLogger("uvicorn.error").propagate = True
        self.config.access_log = False
        self.config.server_header = False
        self.config.timeout_notify = HEARTBEAT_INTERVAL
        self.config.http = BoundedHttpProtocol
        self.config.ws = BoundedWebSocketProtocol

    def init_process(self) -> None:
        # Objects from before the fork live as long as the process: to collect them frees nothing
        # and copies their memory. Less frequent collections of the rest save time.
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        super().init_process()

    def run(self) -> None:
        # Not closed, and so not asyncio.run(): that would wait for every thread.
        asyncio.Runner(loop_factory=self.config.get_loop_factory()).run(self._serve())
        self.log.info("Worker exiting (pid: %s)", self.pid)  # as Gunicorn says after a return
        exit_process(os.EX_OK)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.config.ws_max_size = self.wsgi.state.settings.max_body_size
        server = DrainingServer(self.config)
        server.app = self.wsgi
        server.drain = drain_seconds(self.wsgi.state.settings)
        server.grace = max(1, self.cfg.graceful_timeout - server.drain - LIFESPAN_TIMEOUT)
        # Gunicorn's handler only sets a flag, and the arbiter would kill the process in the end.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        # Without Gunicorn's wrapper, which logs an error when uvloop has closed the socket.
        await server.serve(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            raise SystemExit(3)  # "worker failed to boot", on which Gunicorn stops

    async def callback_notify(self) -> None:
        """Send the arbiter a heartbeat; stop if it is gone."""
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)
        self.notify()


class GunicornLogger(Logger):
    """Gunicorn's logger, with the service's log handlers."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
