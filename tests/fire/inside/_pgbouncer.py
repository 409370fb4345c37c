"""PgBouncer in transaction mode, in front of a local port."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fire._outages import TIMEOUT, wait_until
from tests.system.serving import free_port

# It retries an unreachable Postgres after one second instead of 15.
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={target} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
auth_type = any
server_login_retry = 1
query_wait_timeout = 5
"""


class PgBouncer:
    """A PgBouncer that is restarted whenever it exits, as by a supervisor in production.

    Version 1.18 can exit when requests to cancel a statement are not answered.
    """

    def __init__(self, folder: Path, target: int, size: int) -> None:
        self.port = free_port()
        file = folder / "pgbouncer.ini"
        file.write_text(CONFIGURATION.format(target=target, port=self.port, size=size))
        folder.chmod(0o755)
        self._command = [_program(), "-q", str(file)]
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            self._command[1:1] = ["-u", "nobody"]
        self._lock = threading.Lock()
        self._closed = False
        self._process = self._start()
        self._supervisor = threading.Thread(target=self._supervise)
        self._supervisor.start()
        wait_until(self._is_listening)

    def restart(self) -> None:
        """Kill the process and with it all connections; the supervisor restarts it."""
        self._process.kill()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._process.kill()
        self._supervisor.join(TIMEOUT)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            with self._lock:
                if self._closed:
                    return
                self._process = self._start()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _program() -> str:
    """Path of PgBouncer, which is installed if possible; otherwise the test is skipped."""
    if not (found := shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("PgBouncer is not installed, and can't be installed by this user here")
        for command in (["update"], ["install", "--no-install-recommends", "-y", "pgbouncer"]):
            subprocess.run(["apt-get", "-qq", *command], check=True)
        found = "/usr/sbin/pgbouncer"
    return found


@contextmanager
def pgbouncer(target: int, size: int) -> Iterator[PgBouncer]:
    """PgBouncer with ``size`` connections to the Postgres on port ``target``."""
    with tempfile.TemporaryDirectory() as folder:
        bouncer = PgBouncer(Path(folder), target, size)
        try:
            yield bouncer
        finally:
            bouncer.close()
