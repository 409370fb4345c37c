"""Publishing through a broker: how many messages it holds, and messages that it has lost.

A backlog belongs into Postgres, not into the broker's memory: publishing stops at
``jobs_queue_limit`` messages. The scheduler publishes the jobs that were skipped, those whose
message was lost, and those that have become due.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.jobs.store import ACTIVE, Job
from app.platform.jobs.transport import Transport
from app.platform.settings import PlatformSettings

PUBLISH_GRACE = 5.0  # seconds before the scheduler publishes a job that its process has not
MAX_REPUBLISH_FACTOR = 10  # longest republish interval, as a multiple of JOBS_REPUBLISH_AFTER


async def publish_new(
    transport: Transport, settings: PlatformSettings, ids: Sequence[UUID]
) -> None:
    """Publish new jobs, as many as the queue has room for; raises if it is unavailable."""
    room = settings.jobs_queue_limit - await transport.depth()
    await transport.publish(ids[: max(room, 0)])


async def publish_due(app: FastAPI, settings: PlatformSettings, limit: int) -> int:
    """Publish up to ``limit`` due jobs, as many as the queue has room for; return how many."""
    transport: Transport = app.state.transport
    room = min(limit, settings.jobs_queue_limit - await transport.depth())
    if room <= 0:
        return 0
    async with app.state.db.transaction() as session:
        ids = await claim_unpublished(session, room, settings.jobs_republish_after)
        # Before the commit: if the queue rejects them, the jobs stay unpublished.
        if ids:
            await transport.publish(ids)
    return len(ids)


async def claim_unpublished(
    session: AsyncSession, limit: int, republish_after: float
) -> Sequence[UUID]:
    """Claim up to ``limit`` jobs to publish now, including those with an expired lease.

    Unless they start, they can be claimed again after ``republish_after`` seconds. That interval
    grows with the time a job has waited, up to ``MAX_REPUBLISH_FACTOR`` times: otherwise a slow
    queue fills with duplicates.
    """
    due = (
        select(Job.id)
        .where(ACTIVE, Job.publish_at <= func.now())
        .order_by(Job.publish_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    shortest = timedelta(seconds=republish_after)
    longest = shortest * MAX_REPUBLISH_FACTOR
    interval = func.greatest(func.least(func.now() - Job.due_at, longest), shortest)
    claimed = update(Job).where(Job.id.in_(due)).values(publish_at=func.now() + interval)
    statement = claimed.returning(Job.id)
    return (await session.scalars(statement)).all()
