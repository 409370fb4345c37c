"""Workers that are stopped under load, as in a deployment."""

import asyncio
import time

from app.platform.jobs import JobStatus
from tests.fire.conftest import FULL, Note
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Start
from tests.system.jobs.conftest import service as service
from tests.system.jobs.conftest import start as start

JOBS = 2000 if FULL else 150
STOPS = 6 if FULL else 2


async def test_stopping_workers_under_load_neither_loses_nor_repeats_jobs(
    service: Service, start: Start, note: Note
) -> None:
    redis = service.app.state.redis
    jobs: list[JobStatus] = []
    stopped = asyncio.Event()

    async def enqueue_jobs() -> None:
        while len(jobs) < JOBS or not stopped.is_set():
            jobs.append(await service.enqueue(samples.note, text=str(len(jobs))))
            await asyncio.sleep(0.02)

    async def wait_for_progress(done: int) -> None:
        end = time.monotonic() + TIMEOUT
        while await redis.llen("notes") <= done:
            assert time.monotonic() < end, "no progress"
            await asyncio.sleep(0.02)

    start("scheduler")
    worker = start("worker", WORKER_CONCURRENCY="2")
    enqueueing = asyncio.create_task(enqueue_jobs())
    for _ in range(STOPS):
        await wait_for_progress(await redis.llen("notes") + 5)
        worker.terminate()
        assert await worker.wait() == 0
        worker = start("worker", WORKER_CONCURRENCY="2")
    stopped.set()
    await enqueueing
    finished = [await service.wait_for_status(job.id, "succeeded") for job in jobs]
    done = [int(text) for text in await redis.lrange("notes", 0, -1)]
    repeated = len(done) - len(set(done))
    note(jobs=len(jobs), stops=STOPS, lost=len(jobs) - len(set(done)), repeated=repeated)
    assert sorted(done) == list(range(len(jobs)))
    assert {job.attempts for job in finished} == {1}
