"""PgBouncer in transaction mode, in front of whatever listens on a port."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fire._outages import PATIENCE, eventually
from tests.test_serve import free_port

# It waits a second, and not 15, until it tries a Postgres again that it could not reach.
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
    """One that can be restarted."""

    def __init__(self, folder: Path, target: int, size: int) -> None:
        self.port = free_port()
        file = folder / "pgbouncer.ini"
        file.write_text(CONFIGURATION.format(target=target, port=self.port, size=size))
        folder.chmod(0o755)
        self._command = [_program(), "-q", str(file)]
        if os.geteuid() == 0:  # which it refuses to run as
            self._command[1:1] = ["-u", "nobody"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)
        eventually(self._listens)

    def restart(self) -> None:
        """End it, and with it all of its connections; start it again."""
        self.end()
        self.start()

    def revive(self) -> None:
        """Start it if it has ended, as whatever runs it in production does.

        1.18, for one, may die of requests to cancel that were not answered.
        """
        if self._process and self._process.poll() is not None:
            self.start()

    def end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _program() -> str:
    """Find PgBouncer, or install it; skip the test where neither can be done."""
    if not (found := shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("PgBouncer is not installed, and can't be installed by this user here")
        for command in (["update"], ["install", "--no-install-recommends", "-y", "pgbouncer"]):
            subprocess.run(["apt-get", "-qq", *command], check=True)
        found = "/usr/sbin/pgbouncer"
    return found


@contextmanager
def pgbouncer(target: int, size: int) -> Iterator[PgBouncer]:
    """Run PgBouncer with ``size`` connections to the Postgres that is at a port."""
    with tempfile.TemporaryDirectory() as folder:
        bouncer = PgBouncer(Path(folder), target, size)
        try:
            bouncer.start()
            yield bouncer
        finally:
            bouncer.end()
