"""Publishing through a broker: messages that wake workers, and those that it has lost.

A message says that jobs are due, and one wakes one worker, which claims all that it can start. It
wakes the next worker if there may be more. Messages do not add up while no worker takes them: the
backlog is in Postgres.
"""

from collections.abc import Sequence
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import func, select

from app.platform.jobs.store import ACTIVE, DUE, JOBS
from app.platform.jobs.transport import Transport
from app.platform.settings import PlatformSettings

# Messages up to which the scheduler sends another one. More than one, because one that a worker
# received before it died can stay in the queue.
MAX_SCHEDULED = 10
WAITING = select(JOBS.c.id).where(ACTIVE, JOBS.c.publish_at <= func.now(), DUE).limit(1)


async def publish_new(
    transport: Transport, settings: PlatformSettings, ids: Sequence[UUID]
) -> None:
    """Wake a worker for new jobs, if the queue has room; raises if it is unavailable."""
    if transport.full:
        transport.full = await transport.depth() >= settings.jobs_queue_limit
    if not transport.full:
        await transport.publish(ids[0])
        # Not before: it would be a round trip in the time from commit to start.
        transport.full = await transport.depth() >= settings.jobs_queue_limit


async def publish_due(app: FastAPI) -> None:
    """Wake a worker if a job waits that is due: delayed, to be retried, or of a lost message."""
    transport: Transport = app.state.transport
    waiting = await app.state.read_session.first(WAITING)
    if waiting and await transport.depth() < MAX_SCHEDULED:
        await transport.publish(waiting.id)


async def pass_on(app: FastAPI, job_id: UUID) -> None:
    """Wake another worker, unless a message does that already."""
    transport: Transport = app.state.transport
    if not await transport.depth():
        await transport.publish(job_id)
