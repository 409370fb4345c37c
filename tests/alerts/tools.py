"""promtool, amtool and Alertmanager, from Debian, and what they say."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import toolbox
from tests.live.containers import apt


def promtool() -> str:
    """The machine's promtool, which apt installs where there is none."""
    if not shutil.which("promtool"):
        _need_apt("promtool")
        apt.install("prometheus")
    return "promtool"


def alertmanager(program: str = "prometheus-alertmanager") -> str:
    """Alertmanager or ``amtool`` of Debian 13; older ones read no webhook's URL from a file."""
    unpacked = toolbox.BUILD / "alertmanager"
    with toolbox.lock(toolbox.BUILD / "alertmanager.lock"):
        if not (found := unpacked / "usr/bin" / program).exists():
            _need_apt(program)
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir(parents=True)
            apt.unpack("trixie", ["prometheus-alertmanager"], unpacked)
    return str(found)


def _need_apt(program: str) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"{program} is not installed, and can't be installed by this user here")


def amtool(*arguments: str | Path) -> str:
    return run(alertmanager("amtool"), *arguments)


def run(program: str, *arguments: str | Path) -> str:
    """Return what a program says; fail with its complaints if it does."""
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
