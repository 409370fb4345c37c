"""Jobs for the tests, in the processes of the tests too. What they do is seen in Redis."""

import asyncio
import os
import time
from contextlib import suppress

from sqlalchemy import func, select

from app.platform.jobs import JobContext, job

# Of `ignores_cancel`, in this process.
LISTENS = asyncio.Event()
ENDED = asyncio.Event()


@job(retries=0)
async def note(context: JobContext, text: str) -> str:
    """Leave a note."""
    await context.redis.rpush("notes", text)
    context.logger.info("noted")
    return text.upper()


@job(retries=3)
async def fail_then_succeed(context: JobContext, times: int) -> int:
    """Fail a few times, then succeed; the result is the attempt that did."""
    if context.attempt <= times:
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


@job(retries=1)
async def fail(context: JobContext) -> None:
    """Never succeed."""
    raise RuntimeError("password=hunter2 is wrong")


@job(retries=0, timeout=0.2)
async def slow_job(context: JobContext) -> None:
    """Take too long."""
    await asyncio.sleep(30)


@job(retries=0)
async def unstorable_result(context: JobContext) -> str:
    """Return what is no text in Postgres."""
    return "\0"


@job(retries=0)
async def leave(context: JobContext) -> None:
    """Try to end the process that runs it."""
    raise SystemExit(3)


@job(retries=5, timeout=90)
async def wait(context: JobContext, gate: str) -> int:
    """Say who runs it, then wait until the gate is open; the result is the attempt."""
    await context.redis.rpush(f"{gate}:started", os.getpid())
    end = time.monotonic() + 60
    while not await context.redis.exists(gate):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return context.attempt


@job(retries=0)
async def ignores_cancel(context: JobContext) -> None:
    """Lose the first cancellation, as happens inside `asyncio.wait_for` before Python 3.12."""
    LISTENS.set()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    try:
        await asyncio.sleep(60)
    finally:
        ENDED.set()


@job(retries=0)
async def crowd(context: JobContext) -> int:
    """Ask Postgres more at once than there are connections."""
    slow = select(func.pg_sleep(0.2))
    return len(await asyncio.gather(*(context.read_session.all(slow) for _ in range(20))))


@job(retries=0)
async def chain(context: JobContext) -> str:
    """Enqueue another job, in a transaction of its own."""
    async with context.transaction() as session:
        status = await context.queue_for(session).enqueue(note, text="chained")
    return str(status.id)
