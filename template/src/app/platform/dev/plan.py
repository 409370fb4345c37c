"""The types of development servers, and where their programs are."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


class Unavailable(Exception):
    """The reason why this machine can't run a server, without a full stop."""


@dataclass(frozen=True)
class LaunchSpec:
    """The command of one server on one port."""

    argv: list[str]
    url: str
    ready: Callable[[int], bool]  # given the server's pid, to tell it from other people's servers
    stop: signal.Signals
    before: list[list[str]]


@dataclass(frozen=True)
class ServerType:
    """A type of server. `plan`: takes a port, a temporary folder and the folder for kept data."""

    name: str
    variable: str
    plan: Callable[[int, Path, Path | None], LaunchSpec]


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
