"""The life of a development server: port, start, readiness, errors, stop."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.platform.dev import guard
from app.platform.dev.lock import locked
from app.platform.dev.plan import ServerType, Unavailable

# Linux keeps this folder in memory. A test run fills about 1 GB: each test that needs a database of
# its own copies one. On a disk, deleting those files alone can take longer than the tests.
MEMORY = Path("/dev/shm")  # noqa: S108 (mkdtemp makes a folder below it that is ours alone)
MIN_FREE_MEMORY = 4 << 30  # bytes, so that the rest of the machine keeps enough
START_SECONDS = 60  # recovering a large database after a crash takes longer than any usual start
PORT_ATTEMPTS = 5


class ServerError(Exception):
    """A server cannot be used; the message says why, and what to do instead."""


class ServerUrls(dict[str, str]):
    """URLs by the variables that they are for, and a check of the servers that run here."""

    servers: "Sequence[_Server]" = ()

    def check(self) -> None:
        """Raise `ServerError` if one of the servers has ended by itself."""
        for server in self.servers:
            server.check()


@contextmanager
def running(kinds: Iterable[ServerType], data: Path | None) -> Iterator[ServerUrls]:
    """Run servers side by side; yield their URLs, by the variables that they are for.

    With `data`, each keeps its state in a folder of its own below it. Raises `ServerError`.
    """
    servers = [_Server(kind, data and data / kind.name.lower()) for kind in kinds]
    try:
        for server in servers:
            server.start()
        urls = ServerUrls({server.kind.variable: server.url() for server in servers})
        urls.servers = servers
        yield urls
    finally:
        for server in servers:
            server.release()
        for server in servers:
            server.join()


class _Server:
    def __init__(self, kind: ServerType, data: Path | None) -> None:
        self.kind = kind
        self.data = data
        self.resources = ExitStack()
        self.guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server under a guard; do not wait for it."""
        if os.name == "nt":
            raise self._error("the servers that come with this project need Linux or macOS")
        try:
            self._prepare()
        except (Unavailable, OSError) as error:
            raise self._error(str(error)) from None

    def _prepare(self) -> None:
        locks = []
        if self.data:
            self.data.mkdir(parents=True, exist_ok=True)
            locks.append(self.resources.enter_context(locked(self.data)))
        parent = None if self.data else _memory()
        folder = Path(tempfile.mkdtemp(prefix=f"{self.kind.name.lower()}-", dir=parent))
        self.resources.callback(shutil.rmtree, folder, ignore_errors=True)
        self.log = self.resources.enter_context(_log(self.data))
        self.plan = plan = self.kind.plan(_free_port(), folder, self.data)
        self.guard = subprocess.Popen(  # noqa: S603
            guard.command(plan.argv, before=plan.before, stop=plan.stop, folder=str(folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd="/",
            # No PG* variable, locale or time zone of the developer's may change what tests see.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            pass_fds=locks,
        )

    def url(self) -> str:
        """Wait until the server answers. Raises `ServerError`."""
        for _ in range(PORT_ATTEMPTS):
            if self._answers():
                return self.plan.url
            if "Address already in use" not in (log := self._log_tail()):
                raise self._error(f"its log ends with\n\n{log}\n\n", blame_data=True)
            self.release()  # another program was faster to take the port
            self.join()
            self.start()
        raise self._error(f"{PORT_ATTEMPTS} free ports were taken before it could use them")

    def _answers(self) -> bool:
        assert self.guard
        assert self.guard.stdout
        pid = int(self.guard.stdout.readline() or 0)
        deadline = time.monotonic() + START_SECONDS
        while self.guard.poll() is None and time.monotonic() < deadline:
            if self.plan.ready(pid):
                return True
            time.sleep(0.01)
        return False

    def check(self) -> None:
        """Raise `ServerError` if the server has ended."""
        if self.guard and (code := self.guard.poll()) is not None:
            raise ServerError(
                f"{self.kind.name} ended with exit code {code}. Its log ends with"
                f"\n\n{self._log_tail()}\n\nStart again."
            )

    def release(self) -> None:
        """Have the guard stop the server; do not wait for it."""
        if self.guard and self.guard.stdin:
            self.guard.stdin.close()

    def join(self) -> None:
        """Wait until the server has exited."""
        if self.guard and self.guard.stdout:
            self.guard.wait()
            self.guard.stdout.close()
        self.resources.close()

    def _log_tail(self) -> str:
        size = os.fstat(self.log).st_size
        text = os.pread(self.log, 4000, max(0, size - 4000)).decode(errors="replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-12:])

    def _error(self, reason: str, *, blame_data: bool = False) -> ServerError:
        end = "" if reason.endswith("\n") else ". "
        own_data = self.data if blame_data else None
        hint = f", delete {own_data} to begin with an empty one" if own_data else ""
        return ServerError(
            f"{self.kind.name} can't be started: {reason}{end}"
            f"Repair that{hint}, or set {self.kind.variable} to the URL of a server of yours."
        )


@contextmanager
def _log(data: Path | None) -> Iterator[int]:
    """Yield the file for the server's log: kept beside its data, or without a name."""
    with (data / "log").open("w+b") if data else tempfile.TemporaryFile() as log:
        yield log.fileno()


def _memory() -> Path | None:
    """The folder in memory, if it can hold a run and nobody chose another place for such files."""
    if sys.platform != "linux" or "TMPDIR" in os.environ or not MEMORY.is_dir():
        return None
    memory = os.statvfs(MEMORY)
    suitable = memory.f_bavail * memory.f_frsize >= MIN_FREE_MEMORY
    # Postgres is copied there, and started from there, when its user can't reach this environment.
    return MEMORY if suitable and not memory.f_flag & os.ST_NOEXEC else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
