"""Real workers and schedulers, and ways to their servers that can be cut."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import Settings
from tests.conftest import ROOT
from tests.platform.jobs.conftest import PATIENCE, Service, serving
from tests.system.jobs.link import Link


class Process:
    """A command of the service, in a process group of its own, that imports a module of tests."""

    def __init__(
        self,
        command: str,
        environment: dict[str, str],
        output: Path,
        module: str = "tests.platform.jobs.samples",
    ) -> None:
        self._output = output
        code = f"import {module}; from app.cli import main; main()"
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, command],
                env=environment,
                cwd=ROOT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.group = self._process.pid

    def runs(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """As the kernel does when memory runs out: no process of it can do anything about it."""
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)

    async def ended(self) -> int:
        return await asyncio.to_thread(self._process.wait, PATIENCE)

    def stop(self) -> None:
        self.kill()
        self._process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        raw = self._output.read_bytes().splitlines()
        return [orjson.loads(line) for line in raw if line.startswith(b"{")]


Start = Callable[..., Process]


@pytest.fixture
async def service(fresh_settings: Settings) -> AsyncIterator[Service]:
    """The service in this process, with the database and the Redis of the processes."""
    async with serving(fresh_settings) as service:
        yield service


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start ``worker`` or ``scheduler``, with one job at a time, a short lease and short waits."""
    processes: list[Process] = []
    base = {
        **environment,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "WORKER_CONCURRENCY": "1",
        "JOBS_LEASE": "1",
        "JOBS_POLL_INTERVAL": "0.1",
        "JOBS_BACKOFF": "0.05",
    }

    def start(command: str, module: str = "tests.platform.jobs.samples", **changes: str) -> Process:
        output = tmp_path / f"{command}-{len(processes)}.log"
        processes.append(Process(command, base | changes, output, module))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()


@pytest.fixture
async def links(environment: dict[str, str]) -> AsyncIterator[dict[str, Link]]:
    """A link to Postgres and one to Redis, by the variable that has its URL."""
    links = {name: Link(environment[name]) for name in ("DATABASE_URL", "REDIS_URL")}
    for link in links.values():
        await link.mend()
    yield links
    for link in links.values():
        link.cut()
