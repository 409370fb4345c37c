"""Jobs that hang or compute: their lease, their hard limit, and the exit of their worker."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.platform.base import heartbeat
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs import hanging
from tests.system.jobs.conftest import Process, Start

MODULE = "tests.system.jobs.hanging"


async def pid_of_the_job(folder: Path) -> int:
    """Wait until a job of ``hanging`` runs; return the id of its process."""
    file = folder / "hanging"
    await until(lambda: file.exists() and file.read_text() != "", "the job has not started")
    return int(file.read_text())


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)


def events(worker: Process, **having: str) -> list[str]:
    return [line["event"] for line in worker.log_lines() if having.items() <= line.items()]


@pytest.mark.parametrize("way", ["call", "thread", "ignore"])
async def test_a_job_that_hangs_is_ended_at_its_hard_limit(
    service: Service, start: Start, tmp_path: Path, way: str
) -> None:
    worker = start("worker", module=MODULE, WORKER_CONCURRENCY="2", JOBS_LEASE="60")
    bystander = await service.enqueue(samples.wait_for_gate, gate="never")
    await service.wait_for_start("never")
    job = await service.enqueue(hanging.hang, way=way)
    pid = await pid_of_the_job(tmp_path)
    status = await service.wait_for_status(job.id, "dead")
    assert status.error == "JobHung: The job did not end 1 s after its timeout of 0.5 s."
    await until(lambda: not _exists(pid), "the process of the job has not ended")
    name = "tests.system.jobs.hanging.hang"
    assert "job exceeded its hard limit; the worker ends" in events(worker, job=name)
    # Long before its lease would end.
    others = await service.status(bystander.id)
    assert (others.status, others.attempts) in (("queued", 0), ("running", 1))


@pytest.mark.parametrize("way", ["call", "thread", "ignore"])
async def test_a_job_that_hangs_does_not_keep_a_stopped_worker(
    service: Service, start: Start, tmp_path: Path, way: str
) -> None:
    worker = start("worker", module=MODULE, WORKER_SHUTDOWN_TIMEOUT="0.5", JOBS_LEASE="60")
    job = await service.enqueue(hanging.work, way=way, seconds=hanging.FOREVER)
    await pid_of_the_job(tmp_path)
    worker.terminate()
    async with asyncio.timeout(30):
        assert await worker.wait() == 0
    status = await service.status(job.id)
    assert (status.status, status.attempts) == ("queued", 0)


async def test_a_job_that_computes_for_longer_than_its_lease_runs_once(
    service: Service, start: Start, tmp_path: Path
) -> None:
    workers = [start("worker", module=MODULE, JOBS_LEASE="1") for _ in range(2)]
    start("scheduler", module=MODULE)
    for gate in ("first", "second"):  # both run, and one of them is free to take the job again
        await service.enqueue(samples.wait_for_gate, gate=gate)
        await service.wait_for_start(gate)
    for gate in ("first", "second"):
        await service.app.state.redis.set(gate, 1)
    job = await service.enqueue(hanging.work, way="compute", seconds=4)
    status = await service.wait_for_status(job.id, "succeeded")
    assert status.attempts == status.result == 1
    name = "tests.system.jobs.hanging.work"
    (event,) = [e for worker in workers for e in events(worker, job=name, level="error")]
    assert event == "a job blocks the event loop"


async def test_a_job_that_holds_the_interpreter_lock_ends_with_its_worker(
    service: Service, start: Start, tmp_path: Path
) -> None:
    # The first job of a worker, which begins before the watchdog checks a second time.
    job = await service.enqueue(hanging.hang, way="lock")
    worker = start("worker", module=MODULE, CHECK_INTERVAL="2")
    worker.has_traceback = True
    start("scheduler", module=MODULE)
    pid = await pid_of_the_job(tmp_path)
    await until(lambda: not _exists(pid), "the process of the job has not ended")
    start("worker", module=MODULE)
    status = await service.wait_for_status(job.id, "dead")
    assert status.error == "RuntimeError: The worker died in every attempt."


@pytest.mark.parametrize("way", ["call", "thread"])
async def test_a_worker_is_healthy_while_a_job_is_within_its_limits(
    service: Service, start: Start, health: Callable[[], bool], tmp_path: Path, way: str
) -> None:
    start("worker", module=MODULE)
    job = await service.enqueue(hanging.work, way=way, seconds=3.5)
    await pid_of_the_job(tmp_path)
    while (await service.status(job.id)).status == "running":
        assert health()
        await asyncio.sleep(0.2)
    assert (await service.status(job.id)).status == "succeeded"


async def test_a_worker_whose_jobs_stand_still_is_unhealthy(
    service: Service, start: Start, health: Callable[[], bool], tmp_path: Path
) -> None:
    start("worker", module=MODULE)
    await service.enqueue(hanging.work, way="thread", seconds=hanging.FOREVER)
    pid = await pid_of_the_job(tmp_path)
    await until(health, "the worker is not healthy")
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: not health(), "the worker is still healthy")


@pytest.fixture
def health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """The health check, which notices in two seconds."""
    monkeypatch.setattr(heartbeat.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(heartbeat, "STALE_AFTER", 2.0)
    return lambda: heartbeat.is_alive("worker")


def _exists(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
