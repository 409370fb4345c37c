"""What a job costs: jobs that a worker drains per second, and the time from commit to start.

``compare.py jobs`` runs this in a process of its own, whose environment has Postgres and Redis.
The jobs do nothing, so what is measured is the queue. The base is the least that a job in Postgres
can cost: one statement that claims a row and one that stores its result, each in autocommit, from
ten asyncpg connections.
"""

import asyncio
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI

from app.main import create_app
from app.platform.jobs import JobContext, job
from app.settings import Settings

JOBS = 1000  # of a round, enqueued in one transaction
SINGLE_JOBS = 100
CONNECTIONS = 10
TIMEOUT = 120.0  # seconds
NAME = "benchmark.no_op"
WORKER = "import jobs; from app.cli import main; main()"
UNFINISHED = "SELECT count(*) FROM jobs WHERE status <> 'succeeded'"
DURATION = "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM jobs"
CLAIM = "UPDATE jobs SET status = 'running', started_at = now() WHERE id = $1 RETURNING arguments"
SUCCEED = "UPDATE jobs SET status = 'succeeded', finished_at = now(), result = '1' WHERE id = $1"
INSERT = (
    "INSERT INTO jobs (id, name, arguments, status, attempts, due_at, publish_at, created_at,"
    " request_id, carrier) SELECT unnest($1::uuid[]), 'by hand', '{}', 'queued', 0,"
    " now() + interval '1 hour', now() + interval '1 hour', now(), '', '{}'"
)


@job(name=NAME)
async def no_op(context: JobContext) -> float:
    """The time of its start, as a POSIX timestamp."""
    return time.time()


class Worker:
    """A worker of the service, with this module's job."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", WORKER, "worker"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def cpu_seconds(self) -> float:
        """CPU time of the worker and its children so far; 0 where there is no /proc."""
        ticks, pids = 0, [self._process.pid]
        while pids:
            folder = Path(f"/proc/{pids.pop()}")
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
                for thread in (folder / "task").iterdir():
                    pids += map(int, (thread / "children").read_text().split())
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_worker() -> Iterator[Worker]:
    worker = Worker()
    try:
        yield worker
    finally:
        worker.stop()


async def enqueue(app: FastAPI, number: int) -> list[UUID]:
    async with app.state.db.transaction() as session:
        queue = app.state.jobs.queue_for(session)
        return [(await queue.enqueue(no_op)).id for _ in range(number)]


async def until(condition: Any, seconds: float = TIMEOUT) -> Any:
    """What ``condition`` returns, once that is true."""
    end = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < end, "timed out"
        await asyncio.sleep(0.02)
    return result


async def drain(app: FastAPI, pool: asyncpg.Pool) -> float:
    """Jobs per second, from the first start to the last result."""
    await pool.execute("TRUNCATE jobs")
    await enqueue(app, JOBS)

    async def finished() -> bool:
        return not await pool.fetchval(UNFINISHED)

    await until(finished)
    return JOBS / float(await pool.fetchval(DURATION))


async def drain_by_hand(pool: asyncpg.Pool) -> float:
    """Jobs per second, by two statements for each."""
    ids = [uuid4() for _ in range(JOBS)]
    await pool.execute(INSERT, ids)

    async def work() -> None:
        async with pool.acquire() as connection:
            while ids:
                one = ids.pop()
                await connection.fetchrow(CLAIM, one)
                await connection.execute(SUCCEED, one)

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return JOBS / (time.monotonic() - began)


async def start_one(app: FastAPI, pool: asyncpg.Pool) -> tuple[float, float]:
    """Seconds of a job's transaction, and from its commit to the job's start."""
    began = time.time()
    (job_id,) = await enqueue(app, 1)
    committed = time.time()

    async def result() -> Any:
        return await pool.fetchval("SELECT result FROM jobs WHERE id = $1", job_id)

    return committed - began, float(await until(result)) - committed


async def measure(rounds: int) -> None:
    """Measure all in turn, and print it."""
    settings = Settings()  # type: ignore[call-arg]  # from the environment
    app = create_app(settings)
    url = re.sub(r"\+\w+", "", settings.database_url.get_secret_value())
    drained, by_hand, cpu, cpu_by_hand = [], [], [], []
    async with (
        app.router.lifespan_context(app),
        asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool,
    ):
        with running_worker() as worker:
            await start_one(app, pool)
            await drain(app, pool)
            for _ in range(rounds):
                before = time.process_time()
                by_hand.append(await drain_by_hand(pool))
                cpu_by_hand.append(time.process_time() - before)
                before = worker.cpu_seconds()
                drained.append(await drain(app, pool))
                cpu.append(worker.cpu_seconds() - before)
            singles = [await start_one(app, pool) for _ in range(SINGLE_JOBS)]
    ratios = sorted(ours / base for ours, base in zip(drained, by_hand, strict=True))
    milliseconds = statistics.median(cpu) / JOBS * 1000
    print(
        f"{'jobs: drained, to by hand':<34} throughput x{statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        f"  CPU x{statistics.median(cpu) / statistics.median(cpu_by_hand):.2f}"
        f"  ({statistics.median(drained):.0f} to {statistics.median(by_hand):.0f} jobs/s,"
        f" {milliseconds:.2f} ms of CPU for each)"
    )
    commit = statistics.median(took for took, _ in singles)
    waited = sorted(waited for _, waited in singles)
    p50, p99 = statistics.median(waited), waited[int(len(waited) * 0.99) - 1]
    print(
        f"{'jobs: commit to start, to enqueue':<34} p50 x{p50 / commit:.1f},"
        f" p99 x{p99 / commit:.1f}"
        f"  ({p50 * 1000:.1f} and {p99 * 1000:.1f} to {commit * 1000:.1f} ms)"
    )


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1])))
