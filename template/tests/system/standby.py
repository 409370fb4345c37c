"""A primary and a streaming standby, for the tests of one module."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy.engine import make_url

from app.platform.dev.launch import running
from app.platform.dev.plan import LaunchSpec, ServerType
from app.platform.dev.postgres import POSTGRES


class Standby:
    """A standby of the server at ``primary``."""

    url: str
    home: Path

    def __init__(self, primary: str) -> None:
        self._primary = make_url(primary)

    @contextmanager
    def running(self) -> Iterator[None]:
        kind = ServerType("Standby", "DATABASE_REPLICA_URL", self._plan)
        with running([kind], None) as urls:
            self.url = urls[kind.variable]
            yield
            with suppress(OSError):  # it may be dead
                self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        pid = int((self.home / "postmaster.pid").read_text().split("\n")[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, number)

    def _plan(self, port: int, folder: Path, data: Path | None) -> LaunchSpec:
        plan = POSTGRES.plan(port, folder, data)
        *user, postgres, _, home = plan.argv[: plan.argv.index("-D") + 2]
        self.home = Path(home)
        copies = [command for command in plan.before if command[0] == "cp"]
        backup = [*user, str(Path(postgres).with_name("pg_basebackup")), "--checkpoint=fast"]
        backup += ["--write-recovery-conf", "--no-sync", "--username=postgres", "--host=127.0.0.1"]
        backup += [f"--port={self._primary.port}", f"--pgdata={home}"]

        def is_ready(_pid: int) -> bool:
            try:
                return "standby" in (self.home / "postmaster.pid").read_text()
            except OSError:
                return False

        return replace(plan, before=[*copies, backup], ready=is_ready)
