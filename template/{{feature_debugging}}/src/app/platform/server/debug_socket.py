"""The Unix socket through which ``app debug`` asks a process about itself.

A thread serves it, so that it answers while the event loop is blocked. It lies in a folder that
only the user of the process can enter; that user could read its memory anyway.
"""

import hashlib
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.platform import about
from app.platform.observability.logs import audit_logger, get_logger

MAX_REQUEST = 4096  # bytes
READ_TIMEOUT = 5.0  # seconds for a question to arrive, and for an answer to be taken

Handler = Callable[[Mapping[str, Any]], Any]

logger = get_logger(__name__)


class DebugError(Exception):
    """A question that can't be answered; the message is for the person who asked."""


def folder() -> Path:
    """The folder of the sockets of this user and this working copy."""
    owner = hashlib.sha256(f"{os.getuid()} {about.project_folder()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"{about.NAME}-{owner}-debug")


def private_folder() -> Path:
    """The folder, made if it is missing; raises ``OSError`` if others can enter or replace it."""
    path = folder()
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user alone; delete it")
    return path


class DebugServer:
    """Answers questions, one at a time: so there are never two profiles at once."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._path = private_folder() / f"{os.getpid()}.sock"
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        self._socket.listen(8)
        threading.Thread(target=self._run, name="debug socket", daemon=True).start()

    def close(self) -> None:
        """Answer no more questions."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # wakes the thread
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError):  # the caller has gone
                connection.settimeout(READ_TIMEOUT)
                connection.sendall(json.dumps(self._answer(connection), default=str).encode())

    def _answer(self, connection: socket.socket) -> dict[str, Any]:
        try:
            question = _read_question(connection)
            name = question.pop("command", "")
            handler = self._handlers.get(name)
            if handler is None:
                raise DebugError(f"There is no command {name!r}.")
            audit_logger.info("debug command", command=name, arguments=question, pid=os.getpid())
            return {"pid": os.getpid(), "answer": handler(question)}
        except DebugError as error:
            return {"pid": os.getpid(), "error": str(error)}
        except Exception:
            logger.exception("debug command failed")
            return {"pid": os.getpid(), "error": "The command failed; the process's log says why."}


def _read_question(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as stream:
        line = stream.readline(MAX_REQUEST)
    try:
        question = json.loads(line)
    except ValueError:
        question = None
    if not isinstance(question, dict):
        raise DebugError("Send one line with a JSON object.")
    return question


def processes() -> list[int]:
    """The process ids that can be asked; the sockets of processes that were killed are removed."""
    found = []
    for path in sorted(folder().glob("*.sock")):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.settimeout(READ_TIMEOUT)
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                continue
            except OSError:
                continue
        found.append(int(path.stem))
    return found


def ask(pid: int, command: str, timeout: float, **arguments: Any) -> Any:
    """The answer of a process within ``timeout`` seconds; raises ``DebugError``."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(folder() / f"{pid}.sock"))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                reply = json.loads(stream.read())
    except TimeoutError:
        raise DebugError(
            f"Process {pid} does not answer: it is busy with another command, or a call holds the"
            " interpreter lock. py-spy sees inside: docs/debugging.md."
        ) from None
    except (OSError, ValueError):
        raise DebugError(f"There is no process {pid} of this service and user.") from None
    if "error" in reply:
        raise DebugError(f"Process {pid}: {reply['error']}")
    return reply["answer"]
