"""Functions for other processes, in a module that is quick to import."""

import os
import signal
import time
from pathlib import Path


def compute(path: str, seconds: float) -> int:
    """Note the id of this process in a file, and block it."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)  # which cannot be cancelled either, and leaves the CPU to other tests
    return os.getpid()


def fail() -> None:
    raise ValueError("the function's own")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
