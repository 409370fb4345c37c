"""The job store: the table of all jobs, and every statement that uses it.

The store alone decides whether a job runs. A message in the queue only says that a job may be due,
so lost, duplicate and late messages are harmless. A worker claims a job for the duration of a lease
and renews the lease while the job runs; once a lease expires, the job is due again. All times are
from the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Delete,
    Index,
    Select,
    Text,
    Update,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.base.errors import Conflict
from app.platform.data.database import Base
from app.platform.jobs.status import HELD_BY_ANOTHER, JobStatus, public_status

ACTIVE = text("status IN ('queued', 'running')")
NOW = select(func.now())
MAX_REPUBLISH_FACTOR = 10  # longest republish interval, as a multiple of JOBS_REPUBLISH_AFTER
Json = dict[str, Any]


class Job(Base):
    """One job, from its enqueueing until its retention has passed."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'dead')", name="status"),
        Index("ix_jobs_publish_at", "publish_at", postgresql_where=ACTIVE),
        Index(
            "uq_jobs_name_unique_key", "name", "unique_key", unique=True, postgresql_where=ACTIVE
        ),
        Index(
            "ix_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    arguments: Mapped[Json] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    unique_key: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str | None] = mapped_column(Text)
    # Earliest start; for a running job, the end of its lease.
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # When the scheduler publishes it, unless it has been claimed by then.
    publish_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    result: Mapped[Any] = mapped_column(JSONB, nullable=True)
    error: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    # The column keeps its first name: renaming it would break the previous release in a deployment.
    trace_context: Mapped[dict[str, str]] = mapped_column("carrier", JSONB)


class Schedule(Base):
    """Last claimed tick of a scheduled job."""

    __tablename__ = "job_schedules"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    ticked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


STATUS = (
    Job.id,
    Job.name,
    Job.status,
    Job.attempts,
    Job.created_at,
    Job.started_at,
    Job.finished_at,
    Job.result,
    Job.error,
)


@dataclass(frozen=True)
class NewJob:
    """A job to add.

    ``delay``: seconds until it is due. ``publish_grace``: further seconds until the scheduler
    publishes it, during which the process that adds the job publishes it itself.
    """

    name: str
    arguments: Json
    unique_key: str | None
    owner: str | None
    request_id: str
    trace_context: dict[str, str]
    delay: float = 0
    publish_grace: float = 0


@dataclass(frozen=True)
class Claim:
    """A job claimed by this process.

    ``started_at`` is the fencing token: it distinguishes this attempt from all others. ``age``:
    time since the job was enqueued.
    """

    id: UUID
    name: str
    arguments: Json
    owner: str | None
    attempts: int
    started_at: datetime
    request_id: str
    trace_context: dict[str, str]
    age: timedelta


def _from_now(seconds: float) -> Any:
    return func.now() + timedelta(seconds=seconds)


async def add(session: AsyncSession, new: NewJob) -> tuple[JobStatus, bool]:
    """Status of the added job and ``True``, or of the job with its unique key and ``False``.

    Raises ``Conflict`` if that job belongs to another owner.
    """
    statement = (
        insert(Job)
        .values(
            id=uuid4(),
            name=new.name,
            arguments=new.arguments,
            status="queued",
            attempts=0,
            unique_key=new.unique_key,
            owner=new.owner,
            due_at=_from_now(new.delay),
            publish_at=_from_now(new.delay + new.publish_grace),
            created_at=func.now(),
            request_id=new.request_id,
            trace_context=new.trace_context,
        )
        .on_conflict_do_nothing(index_elements=[Job.name, Job.unique_key], index_where=ACTIVE)
        .returning(*STATUS)
    )
    holder = select(*STATUS, Job.owner).where(
        Job.name == new.name, Job.unique_key == new.unique_key, ACTIVE
    )
    while True:
        if added := (await session.execute(statement)).first():
            return JobStatus.model_validate(added), True
        # If that job has just finished, the key is free again: try once more.
        if existing := (await session.execute(holder)).first():
            status = public_status(existing, existing.owner, new.owner)
            if status is None:
                raise Conflict(HELD_BY_ANOTHER)
            return status, False


def select_status(job_id: UUID, owner: str | None) -> Select[*tuple[Any, ...]]:
    """Status of a job that belongs to ``owner`` or has no owner."""
    return select(*STATUS).where(Job.id == job_id, or_(Job.owner == owner, Job.owner.is_(None)))


async def claim(session: AsyncSession, job_id: UUID, lease: float) -> Claim | None:
    """Claim a job for ``lease`` seconds; ``None`` if it is finished, delayed or already claimed."""
    columns = (
        Job.id,
        Job.name,
        Job.arguments,
        Job.owner,
        Job.attempts,
        Job.started_at,
        Job.request_id,
        Job.trace_context,
        (func.now() - Job.created_at).label("age"),
    )
    statement = (
        update(Job)
        .where(Job.id == job_id, ACTIVE, Job.due_at <= func.now())
        .values(
            status="running",
            attempts=Job.attempts + 1,
            started_at=func.now(),
            due_at=_from_now(lease),
            publish_at=_from_now(lease),
        )
        .returning(*columns)
    )
    row = (await session.execute(statement)).first()
    return Claim(**row._mapping) if row else None


def _update_claimed(claimed: Claim) -> Update:
    return update(Job).where(
        Job.id == claimed.id, Job.status == "running", Job.started_at == claimed.started_at
    )


async def _row_count(session: AsyncSession, statement: Update | Delete) -> int:
    result = await session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


async def renew(session: AsyncSession, claimed: Claim, lease: float) -> bool:
    """Extend the lease to ``lease`` seconds from now; ``False`` if it was lost."""
    renewed = _update_claimed(claimed).values(due_at=_from_now(lease), publish_at=_from_now(lease))
    return await _row_count(session, renewed) == 1


async def succeed(session: AsyncSession, claimed: Claim, result: Any) -> bool:
    """Store the result; ``False`` if the lease was lost."""
    done = _update_claimed(claimed).values(
        status="succeeded", result=result, error=None, finished_at=func.now()
    )
    return await _row_count(session, done) == 1


async def retry(session: AsyncSession, claimed: Claim, error: str, delay: float) -> bool:
    """Requeue the job to run in ``delay`` seconds; ``False`` if the lease was lost."""
    again = _update_claimed(claimed).values(
        status="queued", error=error, due_at=_from_now(delay), publish_at=_from_now(delay)
    )
    return await _row_count(session, again) == 1


async def postpone(session: AsyncSession, claimed: Claim, error: str, delay: float) -> bool:
    """Requeue the job without counting this attempt; ``False`` if the lease was lost."""
    again = _update_claimed(claimed).values(
        status="queued",
        error=error,
        attempts=Job.attempts - 1,
        due_at=_from_now(delay),
        publish_at=_from_now(delay),
    )
    return await _row_count(session, again) == 1


async def mark_dead(session: AsyncSession, claimed: Claim, error: str) -> bool:
    """Mark the job as dead; ``False`` if the lease was lost."""
    dead = _update_claimed(claimed).values(status="dead", error=error, finished_at=func.now())
    return await _row_count(session, dead) == 1


async def release(session: AsyncSession, claimed: Claim) -> bool:
    """Requeue the job at once without counting this attempt; ``False`` if the lease was lost."""
    back = _update_claimed(claimed).values(
        status="queued", attempts=Job.attempts - 1, due_at=func.now(), publish_at=func.now()
    )
    return await _row_count(session, back) == 1


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


async def claim_tick(session: AsyncSession, name: str, at: datetime) -> bool:
    """Claim the tick ``at`` of a schedule; ``True`` for exactly one caller.

    A new schedule starts with its next tick, not with the last one before it existed.
    """
    first = insert(Schedule).values(name=name, ticked_at=func.now()).on_conflict_do_nothing()
    await session.execute(first)
    ticked = update(Schedule).where(Schedule.name == name, Schedule.ticked_at < at)
    return await _row_count(session, ticked.values(ticked_at=at)) == 1


async def prune(
    session: AsyncSession, retention_days: float, dead_retention_days: float, limit: int
) -> int:
    """Delete up to ``limit`` finished jobs whose retention has passed; return how many."""
    old = or_(
        Job.finished_at < _from_now(-dead_retention_days * 86_400),
        (Job.status == "succeeded") & (Job.finished_at < _from_now(-retention_days * 86_400)),
    )
    expired = select(Job.id).where(old).limit(limit).with_for_update(skip_locked=True)
    return await _row_count(session, delete(Job).where(Job.id.in_(expired.scalar_subquery())))


def select_newest(state: str, limit: int) -> Select[*tuple[Any, ...]]:
    """Status of the newest jobs in ``state``."""
    return select(*STATUS).where(Job.status == state).order_by(Job.created_at.desc()).limit(limit)


async def replay(session: AsyncSession, job_id: UUID | None = None) -> int:
    """Requeue one dead job, or all of them, with all retries; return how many.

    They lose their unique keys, which other jobs may have taken.
    """
    dead = update(Job).where(Job.status == "dead")
    if job_id:
        dead = dead.where(Job.id == job_id)
    requeued = dead.values(
        status="queued",
        attempts=0,
        unique_key=None,
        finished_at=None,
        due_at=func.now(),
        publish_at=func.now(),
    )
    return await _row_count(session, requeued)


def select_backlog() -> Select[str, int, int, float]:
    """Per status of unfinished and dead jobs: their number, due jobs, seconds since the oldest due.

    Jobs that succeeded are not counted.
    """
    due = func.count().filter(Job.due_at <= func.now())
    wait = func.max(func.extract("epoch", func.now() - Job.due_at))
    backlog = select(Job.status, func.count(), due, wait).where(or_(ACTIVE, Job.status == "dead"))
    return backlog.group_by(Job.status)
