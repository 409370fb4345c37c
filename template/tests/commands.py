"""The commands of the service, run in this process."""

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from unittest.mock import patch

from app import cli
from app.settings import get_settings
from tests.conftest import ROOT


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended: its exit code and output."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str, env: Mapping[str, str]) -> CommandResult:
    """Run a command in the environment ``env``, in a thread that may have an event loop of its own.

    What a process would print as a traceback is raised.
    """
    get_settings.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "argv", ["app", *arguments]),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        ThreadPoolExecutor(1) as thread,
    ):
        code = thread.submit(_exit_code).result()
    get_settings.cache_clear()
    return CommandResult(code, out.getvalue(), err.getvalue())


def _exit_code() -> int:
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
