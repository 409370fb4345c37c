"""What Gunicorn runs the service with: a worker that drains before it stops, and our log lines.

The settings of the server are in ``gunicorn.conf.py``.
"""

import asyncio
import gc
import logging
import os
import signal
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from app.protocol import Protocol
from app.settings import Settings, get_settings

# Of the seconds that Gunicorn gives a worker to stop, those for closing its pools and for the last
# spans to leave. What drains and what is in flight share the rest.
LIFESPAN_TIMEOUT = 7
SIGN_OF_LIFE = 5  # seconds between two; also how soon an orphaned worker notices


def drain_seconds(settings: Settings) -> float:
    """Return how long the service goes on after SIGTERM, so that load balancers notice."""
    if settings.drain_seconds is not None:
        return settings.drain_seconds
    return 5.0 if settings.environment == "production" else 0.0


class DrainingServer(Server):
    """Uvicorn's server, which on SIGTERM says first that it will go, and goes on for a while.

    ``/health/ready`` answers 503, and each answer closes its connection, so that clients and load
    balancers find another process. After that no new connection is taken, requests may end, and
    streams are cut: else Gunicorn would kill the process, with its pools open.
    """

    app: Any
    drain: float

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not kept for later, as Uvicorn does: the process would die of it, after its clean stop.
        if self.drain and not self.should_exit and not self.app.state.draining:
            self.app.state.draining = True
            closing = (b"connection", b"close")
            self.config.encoded_headers.append(closing)
            self.server_state.default_headers = [*self.server_state.default_headers, closing]
            asyncio.get_running_loop().call_later(self.drain, self._stop)
        else:
            self._stop()

    def _stop(self) -> None:
        self.app.state.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        # First no new connections; those that are open may still say what they were opened for.
        for server in self.servers:
            server.close()
        for socket in sockets or ():
            socket.close()
        if self.drain:
            await asyncio.sleep(0.5)
        await super().shutdown()


class Worker(UvicornWorker):  # type: ignore[misc]  # its package has no types
    """One process of the API."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Back to our handlers: the worker has just given Uvicorn those of Gunicorn.
        logging.getLogger("uvicorn.error").propagate = True
        self.drain = drain_seconds(get_settings())
        self.config.http = Protocol
        self.config.access_log = False
        self.config.server_header = False
        self.config.timeout_notify = SIGN_OF_LIFE
        left = self.cfg.graceful_timeout - self.drain - LIFESPAN_TIMEOUT
        self.config.timeout_graceful_shutdown = max(1, int(left))

    def init_process(self) -> None:
        # What was made before the fork stays for good: it is not worth looking at again, and
        # looking would copy its memory. The rest is looked at more rarely, which is faster.
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        super().init_process()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self.config)
        server.app, server.drain = self.wsgi, self.drain
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
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
