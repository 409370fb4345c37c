"""PgBouncer in transaction mode, in front of whatever listens on a port."""

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

from tests.fire._outages import PATIENCE, eventually
from tests.system.serving import free_port

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
    """One that is started again whenever it ends, as by whatever runs it in production.

    1.18 needs that: it may end when requests to cancel a statement are not answered.
    """

    def __init__(self, folder: Path, target: int, size: int) -> None:
        self.port = free_port()
        file = folder / "pgbouncer.ini"
        file.write_text(CONFIGURATION.format(target=target, port=self.port, size=size))
        folder.chmod(0o755)
        self._command = [_program(), "-q", str(file)]
        if os.geteuid() == 0:  # which it refuses to run as
            self._command[1:1] = ["-u", "nobody"]
        self._changing = threading.Lock()
        self._over = False
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()
        eventually(self._listens)

    def restart(self) -> None:
        """End it, and with it all of its connections; it is started again."""
        self._process.kill()

    def end(self) -> None:
        with self._changing:
            self._over = True
            self._process.kill()
        self._keeper.join(PATIENCE)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            with self._changing:
                if self._over:
                    return
                self._process = self._start()

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
            yield bouncer
        finally:
            bouncer.end()
