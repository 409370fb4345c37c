"""The identity provider of development and tests, as a server of `app dev`."""

import contextlib
import http.client
import signal
import socket
import sys
from pathlib import Path

from app.platform.dev.plan import LaunchSpec, ServerType


def _plan(port: int, folder: Path, data: Path | None) -> LaunchSpec:
    if data:
        port = _previous_port(data / "port", port)
    return LaunchSpec(
        argv=[sys.executable, "-m", "app.platform.dev.provider", str(port)],
        url=f"http://127.0.0.1:{port}",
        ready=lambda pid: _ready(port, pid),
        stop=signal.SIGTERM,
        before=[],
    )


def _previous_port(file: Path, port: int) -> int:
    """The port of the last run if it is free: callers' ids depend on the issuer's URL."""
    with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
        last = int(file.read_text())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", last))
        return last
    file.write_text(str(port))
    return port


def _ready(port: int, pid: int) -> bool:
    """Whether it is our server, not one that took the port before it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/pid")
        return connection.getresponse().read() == str(pid).encode()
    return False


SERVER = ServerType("OIDC", "OIDC_ISSUER", _plan)
