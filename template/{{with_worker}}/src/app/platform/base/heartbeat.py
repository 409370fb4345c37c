"""Heartbeats of the worker and the scheduler: each touches a file while it runs.

``python -m app.platform.base.heartbeat worker`` checks one, for a container's health check. It
imports next to nothing: it runs often, and importing the whole service takes a second of CPU.
"""

import sys
import tempfile
import time
from pathlib import Path

from app.platform import about

INTERVAL = 10.0  # seconds
# Six beats missed, or two rounds of the scheduler's longest pause.
STALE_AFTER = 60.0  # seconds


def _file(process: str) -> Path:
    return Path(tempfile.gettempdir(), f"{about.NAME}-{process}.alive")


def touch(process: str) -> None:
    """Say that ``process`` is alive."""
    _file(process).touch()


def is_alive(process: str) -> bool:
    """Tell whether ``process`` said so lately."""
    try:
        # A clock that was set back must not keep a dead process alive.
        return abs(time.time() - _file(process).stat().st_mtime) < STALE_AFTER
    except FileNotFoundError:
        return False


def main(process: str) -> int:
    """Say whether ``process`` is alive; return 0 if it is, else 1."""
    alive = is_alive(process)
    sys.stdout.write(f"The {process} {'is alive' if alive else 'gave no sign of life'}.\n")
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
