"""Worker and scheduler processes, and proxies to their servers."""

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
from tests.platform.jobs.conftest import TIMEOUT, Service, running_service
from tests.system.jobs.proxy import Proxy


class Process:
    """A command of the service in its own process group, with the jobs of a test module."""

    def __init__(
        self,
        command: str,
        environment: dict[str, str],
        output: Path,
        module: str = "tests.platform.jobs.samples",
    ) -> None:
        self._output = output
        self.has_traceback = False  # of the interpreter itself, as plain text
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

    def is_running(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the whole group, as the out-of-memory killer does."""
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait, TIMEOUT)

    async def wait_for_event(self, event: str) -> None:
        """Wait for a line of its log; a process that has only begun to start dies of a signal."""
        async with asyncio.timeout(TIMEOUT):
            while event not in [line["event"] for line in self.log_lines()]:  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        self.kill()
        self._process.wait()

    def log_lines(self) -> list[dict[str, Any]]:
        """All complete lines that it has written; raises ``ValueError`` if one is not JSON."""
        complete, _, _ = self._output.read_bytes().rpartition(b"\n")
        return [orjson.loads(line) for line in complete.splitlines()]


Start = Callable[..., Process]


@pytest.fixture
async def service(fresh_settings: Settings) -> AsyncIterator[Service]:
    """The service in this process, on the same database and Redis as the processes."""
    async with running_service(fresh_settings) as service:
        yield service


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start ``worker`` or ``scheduler``, one job at a time, with a short lease and delays.

    Unless WORKER_SCHEDULER=true, the worker runs no scheduler.

    In the end, every line that they have written must have the shape of the log.
    """
    processes: list[Process] = []
    base = {
        **environment,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "WORKER_CONCURRENCY": "1",
        "WORKER_SCHEDULER": "false",
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
    for process in processes:
        for line in [] if process.has_traceback else process.log_lines():
            assert {"timestamp", "level", "event", "logger"} <= set(line), line


@pytest.fixture
async def proxies(environment: dict[str, str]) -> AsyncIterator[dict[str, Proxy]]:
    """A proxy to Postgres and one to Redis, by the variable that has its URL."""
    proxies = {name: Proxy(environment[name]) for name in ("DATABASE_URL", "REDIS_URL")}
    for proxy in proxies.values():
        await proxy.start()
    yield proxies
    for proxy in proxies.values():
        proxy.stop()
