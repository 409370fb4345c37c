"""What a server is before it runs, and where its program is found."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


class Unavailable(Exception):
    """Why this machine can't run a server: a sentence without its full stop."""


@dataclass(frozen=True)
class Plan:
    """How one server is run on one port."""

    argv: list[str]
    url: str
    ready: Callable[[int], bool]  # given the server's pid, to tell it from other people's servers
    stop: signal.Signals
    before: list[list[str]]


@dataclass(frozen=True)
class Kind:
    """A sort of server. `plan` gets a port, a throw-away folder and the folder to keep data in."""

    name: str
    variable: str
    plan: Callable[[int, Path, Path | None], Plan]


def find_program(package: str, pattern: str) -> Path:
    """Find a program in a wheel without importing it: some wheels change the system on import.

    Raises `Unavailable` when the wheel is not installed.
    """
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob(pattern):
            return path
    raise Unavailable(
        f"the package {package} is not installed in {sys.prefix} (`uv sync` installs it, "
        "on macOS and on Linux with glibc)"
    )
