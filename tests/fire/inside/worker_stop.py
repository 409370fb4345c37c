"""Workers that are stopped while jobs keep coming, as at each release."""

import asyncio
import time

from app.platform.jobs import JobStatus
from tests.fire.conftest import FULL, Note
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.platform.jobs.conftest import service as service
from tests.system.jobs.conftest import Start
from tests.system.jobs.conftest import start as start

JOBS = 2000 if FULL else 150
STOPS = 6 if FULL else 2


async def test_workers_stopped_under_a_stream_of_jobs_lose_none_and_do_none_twice(
    service: Service, start: Start, note: Note
) -> None:
    redis = service.app.state.redis
    jobs: list[JobStatus] = []
    stopped = asyncio.Event()

    async def stream() -> None:
        while len(jobs) < JOBS or not stopped.is_set():
            jobs.append(await service.enqueue(samples.note, text=str(len(jobs))))
            await asyncio.sleep(0.02)

    async def more_done_than(done: int) -> None:
        end = time.monotonic() + TIMEOUT
        while await redis.llen("notes") <= done:
            assert time.monotonic() < end, "no job is done"
            await asyncio.sleep(0.02)

    start("scheduler")
    worker = start("worker", WORKER_CONCURRENCY="2")
    coming = asyncio.create_task(stream())
    for _ in range(STOPS):
        await more_done_than(await redis.llen("notes") + 5)
        worker.terminate()
        assert await worker.ended() == 0
        worker = start("worker", WORKER_CONCURRENCY="2")
    stopped.set()
    await coming
    ended = [await service.wait_for_status(job.id, "succeeded") for job in jobs]
    done = [int(text) for text in await redis.lrange("notes", 0, -1)]
    twice = len(done) - len(set(done))
    note(jobs=len(jobs), stops=STOPS, lost=len(jobs) - len(set(done)), twice=twice)
    assert sorted(done) == list(range(len(jobs)))
    assert {job.attempts for job in ended} == {1}
