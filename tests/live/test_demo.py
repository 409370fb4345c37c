"""The README's first command, on a clean clone: it serves the default service until Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.generator import ROOT

PATIENCE = 400  # seconds: .venv, the render and the service's dependencies, from nothing


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", ROOT, tmp_path / "slipway"], check=True
    )
    return tmp_path / "slipway"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def demo(clone: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``make demo`` as in a terminal of its own, with no uv on its path."""
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "uv").exists()
    )
    with (
        (clone / "demo.log").open("wb") as log,
        subprocess.Popen(
            ["make", "demo"],
            cwd=clone,
            env={**os.environ, "PATH": path, "PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(PATIENCE + 100)
def test_make_demo_serves_and_ends(demo: subprocess.Popen[bytes], clone: Path, port: int) -> None:
    health = _ready(demo, f"http://127.0.0.1:{port}/health/ready", clone / "demo.log")
    assert health["status"] == "ready"
    os.killpg(demo.pid, signal.SIGINT)
    demo.wait(timeout=30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert _running_from(clone) == []


def _running_from(folder: Path) -> list[str]:
    """Return the commands of processes that name ``folder`` (where the system has /proc)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in found if str(folder) in command]


def _ready(demo: subprocess.Popen[bytes], url: str, log: Path) -> dict[str, Any]:
    for _ in range(PATIENCE):
        assert demo.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                health: dict[str, Any] = json.load(answer)
                return health
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"not ready after {PATIENCE} s:\n{log.read_text()[-3000:]}")
