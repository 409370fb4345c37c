"""The scheduler within a worker."""

import asyncio
import time
from pathlib import Path

from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs import hanging
from tests.system.jobs.conftest import Process, Start
from tests.system.jobs.test_hanging import pid_of_the_job

MODULE = "tests.system.jobs.ticking"
STATES = ("queued", "running", "succeeded")
TICK = "tests.system.jobs.ticking.tick"


async def wait_for_ticks(service: Service, number: int, *states: str) -> None:
    """Wait until ``number`` ticks are in one of ``states``."""
    end = time.monotonic() + TIMEOUT
    while await count_ticks(service, *states) < number:
        assert time.monotonic() < end, "no ticks"
        await asyncio.sleep(0.1)


async def count_ticks(service: Service, *states: str) -> int:
    found = await service.statuses()
    return len([each for each in found if each.name == TICK and each.status in states])


def schedulers(worker: Process) -> int:
    return [line["event"] for line in worker.log_lines()].count("scheduler started")


async def test_a_worker_alone_runs_scheduled_delayed_and_failed_jobs(
    service: Service, start: Start
) -> None:
    worker = start("worker", module=MODULE, WORKER_SCHEDULER="true", WORKER_CONCURRENCY="3")
    delayed = await service.enqueue(samples.echo, text="later", delay=1)
    failing = await service.enqueue(samples.fail_then_succeed, times=2)
    for job in (delayed, failing):
        await service.wait_for_status(job.id, "succeeded")
    await wait_for_ticks(service, 2, "succeeded")
    worker.terminate()
    assert await worker.wait() == 0
    assert schedulers(worker) == 1  # however many children it has


async def test_a_job_that_blocks_the_event_loop_does_not_delay_schedules(
    service: Service, start: Start, tmp_path: Path
) -> None:
    start("worker", module=MODULE, WORKER_SCHEDULER="true")
    job = await service.enqueue(hanging.work, way="compute", seconds=20)
    await pid_of_the_job(tmp_path)
    before = await count_ticks(service, *STATES)
    await wait_for_ticks(service, before + 2, *STATES)
    assert (await service.status(job.id)).status == "running"


async def test_a_worker_that_is_told_so_runs_no_scheduler(service: Service, start: Start) -> None:
    worker = start("worker", module=MODULE, WORKER_SCHEDULER="false")
    job = await service.enqueue(samples.echo, text="a")
    await service.wait_for_status(job.id, "succeeded")
    worker.terminate()
    assert await worker.wait() == 0
    assert schedulers(worker) == 0
