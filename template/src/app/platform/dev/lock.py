"""A lock that keeps a second `app dev` from using the data of the first."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.platform.dev.plan import Unavailable

LOCK_SECONDS = 2.0  # a guard whose parent was killed needs a moment to stop its server


@contextmanager
def locked(data: Path) -> Iterator[int]:
    """Hold the folder as long as any process has the yielded file descriptor open.

    Raises `Unavailable` when another process holds it.
    """
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _take(lock):
            if time.monotonic() > deadline:
                pid = os.pread(lock, 20, 0).decode()
                raise Unavailable(
                    f"process {pid} already runs it, with its data in {data}: stop that one"
                )
            time.sleep(0.05)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    import fcntl  # noqa: PLC0415 (not on Windows, where this module can be imported)

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
