"""A service whose jobs these tests run themselves, and real workers for those that need them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.platform.jobs import JobStatus, store
from app.platform.jobs.runner import Runner
from app.platform.jobs.scheduler import Scheduler
from app.settings import Settings
from tests.conftest import ROOT, running

PATIENCE = 60.0  # seconds; the machine may be busy


class Service:
    """The service in this process, without a worker: the test is the worker."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.runner = Runner(app, settings)
        self.scheduler = Scheduler(app, settings)

    async def enqueue(self, function: Any, **arguments: Any) -> JobStatus:
        async with self.app.state.db.transaction() as session:
            status: JobStatus = await self.app.state.jobs.within(session).enqueue(
                function, **arguments
            )
        return status

    async def status(self, job_id: UUID) -> JobStatus:
        rows = await self.app.state.reader.all(select(*store.STATUS).where(store.Job.id == job_id))
        return JobStatus.model_validate(rows[0])

    async def all(self) -> list[JobStatus]:
        rows = await self.app.state.reader.all(select(*store.STATUS).order_by(store.Job.created_at))
        return [JobStatus.model_validate(row) for row in rows]

    async def becomes(self, job_id: UUID, state: str) -> JobStatus:
        """Wait until a job is in a state."""
        end = time.monotonic() + PATIENCE
        while (status := await self.status(job_id)).status != state:
            assert time.monotonic() < end, f"still {status}"
            await asyncio.sleep(0.05)
        return status

    async def drained(self) -> None:
        """Wait until the queue holds nothing more."""
        end = time.monotonic() + PATIENCE
        while depth := await self.app.state.transport.depth():
            assert time.monotonic() < end, f"still {depth} in the queue"
            await asyncio.sleep(0.05)

    async def started(self, gate: str) -> int:
        """Wait until somebody runs ``samples.wait``; return the process group that does."""
        popped = await self.app.state.redis.blpop([f"{gate}:started"], timeout=PATIENCE)
        assert popped, "nobody started the job"
        return os.getpgid(int(popped[1]))


@pytest.fixture
async def service(fresh_settings: Settings) -> AsyncIterator[Service]:
    # Redis answers a blocking pop after longer than its time-out.
    settings = fresh_settings.model_copy(
        update={"jobs_lease": 1.0, "jobs_backoff": 0.05, "redis_timeout": PATIENCE + 5}
    )
    async with running(settings) as app:
        await app.state.redis.flushdb()
        yield Service(app, settings)


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
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start ``worker`` or ``scheduler``, with one job at a time, a short lease and short waits."""
    processes: list[Process] = []
    base = {
        **environment,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "WORKER_CONCURRENCY": "1",
        "JOBS_LEASE": "1",
        "JOBS_POLL": "0.1",
        "JOBS_BACKOFF": "0.05",
    }

    def start(command: str, module: str = "tests.platform.jobs.samples", **changes: str) -> Process:
        output = tmp_path / f"{command}-{len(processes)}.log"
        processes.append(Process(command, base | changes, output, module))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()
