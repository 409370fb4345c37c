"""Jobs for tests, in this process or in workers. Their effects are visible in Redis."""

import asyncio
import os
import time
from contextlib import suppress

from sqlalchemy import func, select

from app.platform.base.context import current
from app.platform.jobs import JobContext, job

# Set by `ignores_cancel`, in this process.
STARTED = asyncio.Event()
FINISHED = asyncio.Event()


@job(retries=0)
async def note(context: JobContext, text: str) -> str:
    """Append a note to a list."""
    await context.redis.rpush("notes", text)
    context.logger.info("noted")
    return text.upper()


@job(retries=0)
async def adds_log_fields(_: JobContext) -> None:
    """Add a field to the log line of the job."""
    current().log_fields = {"orders": 7}


@job(retries=3)
async def fail_then_succeed(context: JobContext, times: int) -> int:
    """Fail ``times`` times, then return the number of the attempt."""
    if context.attempt <= times:
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


@job(retries=1)
async def always_fails(context: JobContext) -> None:
    raise RuntimeError("password=hunter2 is wrong")


@job(retries=0, timeout=0.2)
async def slow_job(context: JobContext) -> None:
    """Exceed the timeout."""
    await asyncio.sleep(30)


@job(retries=0)
async def unstorable_result(context: JobContext) -> str:
    """Return text that Postgres rejects."""
    return "\0"


@job(retries=0)
async def exits(context: JobContext) -> None:
    raise SystemExit(3)


@job(retries=1)
async def reports_progress(context: JobContext) -> None:
    """Report progress a hundred times in the first attempt, which fails."""
    if context.attempt == 1:
        for done in range(101):
            await context.report_progress(done, 100, "counting")
        raise RuntimeError("once")


@job(retries=0)
async def echo(context: JobContext, text: str) -> str:
    """Return the text; needs no server."""
    return text


@job(retries=1000, timeout=90)
async def wait_for_gate(context: JobContext, gate: str) -> int:
    """Announce the process id, wait until the key ``gate`` exists, and return the attempt."""
    await context.redis.rpush(f"{gate}:started", os.getpid())
    end = time.monotonic() + 60
    while not await context.redis.exists(gate):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return context.attempt


@job(retries=0)
async def ignores_cancel(context: JobContext) -> None:
    """Suppress the first cancellation, as `asyncio.wait_for` can before Python 3.12."""
    STARTED.set()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    try:
        await asyncio.sleep(60)
    finally:
        FINISHED.set()


@job(retries=0)
async def concurrent_transactions(context: JobContext) -> int:
    """Run more concurrent transactions than the pool has connections."""

    async def run() -> None:
        async with context.transaction() as session:
            await session.execute(select(func.pg_sleep(0.2)))

    return len(await asyncio.gather(*(run() for _ in range(20))))


@job(retries=0)
async def enqueues_another(context: JobContext) -> str:
    """Enqueue another job in its own transaction, and return that job's id."""
    async with context.transaction() as session:
        status = await context.queue_for(session).enqueue(note, text="enqueued by a job")
    return str(status.id)
