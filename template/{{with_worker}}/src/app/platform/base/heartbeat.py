"""Heartbeats of the worker and the scheduler: each touches a file while its loop runs.

``python -m app.platform.base.heartbeat worker`` checks the file, for container health checks. It
avoids importing the service, which takes about a second of CPU.
"""

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

from app.platform import about

INTERVAL = 10.0  # seconds
STALE_AFTER = 60.0  # seconds: six intervals, or twice the scheduler's longest delay


def _file(process: str) -> Path:
    """A file of this user and this working copy: neither collides with those of others."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    owner = hashlib.sha256(f"{user} {about.project_folder()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"{about.NAME}-{owner}-{process}.heartbeat")


def touch(process: str, at: float | None = None) -> None:
    """Record a heartbeat of ``process``, now or ``at`` a POSIX timestamp."""
    file = _file(process)
    file.touch()
    if at is not None:
        os.utime(file, (at, at))


def is_alive(process: str) -> bool:
    """Whether the last heartbeat of ``process`` is at most ``STALE_AFTER`` seconds old."""
    try:
        # abs(): if the clock is set back, a dead process must not look alive.
        return abs(time.time() - _file(process).stat().st_mtime) < STALE_AFTER
    except FileNotFoundError:
        return False


def main(process: str) -> int:
    """Print whether ``process`` is alive; return 0 if it is, otherwise 1."""
    alive = is_alive(process)
    problem = f"has had no heartbeat for {STALE_AFTER:g} s"
    sys.stdout.write(f"The {process} {'is alive' if alive else problem}.\n")
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
