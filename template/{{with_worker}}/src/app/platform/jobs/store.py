"""The ledger: the table of all jobs, and every statement that touches it.

The ledger alone decides whether a job is run. What a queue delivers is only a hint that a job may
be due, so a lost, doubled or late message does no harm. A worker that takes a job holds it for the
length of a lease, and renews the lease while it works; when the lease has run out, the job is due
again. All times are those of the database.
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

from app.platform.data.database import Base
from app.platform.jobs.status import JobStatus

ACTIVE = text("status IN ('queued', 'running')")
NOW = select(func.now())
MAX_REPUBLISH_FACTOR = 10  # times as long until a job is published again, at most
Json = dict[str, Any]


class Job(Base):
    """One job, from the transaction that enqueued it until it is forgotten."""

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
    # From when it may be started: for a running job, when its lease ends.
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # When the scheduler hands it to the queue, unless it was started by then.
    publish_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    result: Mapped[Any] = mapped_column(JSONB, nullable=True)
    error: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    carrier: Mapped[dict[str, str]] = mapped_column(JSONB)


class Schedule(Base):
    """The last tick of a scheduled job that was taken care of."""

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
    """A job to be added. ``delay`` and ``publish_grace`` in seconds.

    ``publish_grace``: how long the scheduler waits before it publishes the job, because whoever
    adds it is about to do so.
    """

    name: str
    arguments: Json
    unique_key: str | None
    owner: str | None
    request_id: str
    carrier: dict[str, str]
    delay: float = 0
    publish_grace: float = 0


@dataclass(frozen=True)
class Claim:
    """A job that this process holds; ``started_at`` tells it from every other attempt at it.

    ``age``: for how long it has existed.
    """

    id: UUID
    name: str
    arguments: Json
    owner: str | None
    attempts: int
    started_at: datetime
    request_id: str
    carrier: dict[str, str]
    age: timedelta


def _in(seconds: float) -> Any:
    return func.now() + timedelta(seconds=seconds)


async def add(session: AsyncSession, new: NewJob) -> tuple[JobStatus, bool]:
    """Add a job, unless its unique key is taken: then return the job that has it, and ``False``."""
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
            due_at=_in(new.delay),
            publish_at=_in(new.delay + new.publish_grace),
            created_at=func.now(),
            request_id=new.request_id,
            carrier=new.carrier,
        )
        .on_conflict_do_nothing(index_elements=[Job.name, Job.unique_key], index_where=ACTIVE)
        .returning(*STATUS)
    )
    holder = select(*STATUS).where(Job.name == new.name, Job.unique_key == new.unique_key, ACTIVE)
    while True:
        if added := (await session.execute(statement)).first():
            return JobStatus.model_validate(added), True
        # Between the two statements the other may have finished: then the key is free again.
        if existing := (await session.execute(holder)).first():
            return JobStatus.model_validate(existing), False


def by_id(job_id: UUID, owner: str | None) -> Select[*tuple[Any, ...]]:
    """Select the status of a job of ``owner``, or of nobody: then knowing its id is enough."""
    return select(*STATUS).where(Job.id == job_id, or_(Job.owner == owner, Job.owner.is_(None)))


async def claim(session: AsyncSession, job_id: UUID, lease: float) -> Claim | None:
    """Take a job for ``lease`` seconds; ``None`` if it isn't due: done, not yet, or held."""
    columns = (
        Job.id,
        Job.name,
        Job.arguments,
        Job.owner,
        Job.attempts,
        Job.started_at,
        Job.request_id,
        Job.carrier,
        (func.now() - Job.created_at).label("age"),
    )
    statement = (
        update(Job)
        .where(Job.id == job_id, ACTIVE, Job.due_at <= func.now())
        .values(
            status="running",
            attempts=Job.attempts + 1,
            started_at=func.now(),
            due_at=_in(lease),
            publish_at=_in(lease),
        )
        .returning(*columns)
    )
    row = (await session.execute(statement)).first()
    return Claim(**row._mapping) if row else None


def _held(claimed: Claim) -> Update:
    return update(Job).where(
        Job.id == claimed.id, Job.status == "running", Job.started_at == claimed.started_at
    )


async def _count(session: AsyncSession, statement: Update | Delete) -> int:
    result = await session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


async def renew(session: AsyncSession, claimed: Claim, lease: float) -> bool:
    """Hold the job for ``lease`` seconds from now; ``False`` if it is no longer ours."""
    renewed = _held(claimed).values(due_at=_in(lease), publish_at=_in(lease))
    return await _count(session, renewed) == 1


async def succeed(session: AsyncSession, claimed: Claim, result: Any) -> bool:
    """Keep the result; ``False`` if the job is no longer ours."""
    done = _held(claimed).values(
        status="succeeded", result=result, error=None, finished_at=func.now()
    )
    return await _count(session, done) == 1


async def retry(session: AsyncSession, claimed: Claim, error: str, delay: float) -> bool:
    """Queue the job again, ``delay`` seconds from now; ``False`` if it is no longer ours."""
    again = _held(claimed).values(
        status="queued", error=error, due_at=_in(delay), publish_at=_in(delay)
    )
    return await _count(session, again) == 1


async def postpone(session: AsyncSession, claimed: Claim, error: str, delay: float) -> bool:
    """Queue the job again, as if it had not been started; ``False`` if it is no longer ours."""
    again = _held(claimed).values(
        status="queued",
        error=error,
        attempts=Job.attempts - 1,
        due_at=_in(delay),
        publish_at=_in(delay),
    )
    return await _count(session, again) == 1


async def mark_dead(session: AsyncSession, claimed: Claim, error: str) -> bool:
    """Give the job up; ``False`` if it is no longer ours."""
    dead = _held(claimed).values(status="dead", error=error, finished_at=func.now())
    return await _count(session, dead) == 1


async def release(session: AsyncSession, claimed: Claim) -> bool:
    """Give back a job that was not finished, as if it had not been started."""
    back = _held(claimed).values(
        status="queued", attempts=Job.attempts - 1, due_at=func.now(), publish_at=func.now()
    )
    return await _count(session, back) == 1


async def claim_unpublished(session: AsyncSession, limit: int, again: float) -> Sequence[UUID]:
    """Ids of up to ``limit`` jobs to publish now, which are then left alone for ``again`` seconds.

    Includes jobs whose lease has expired. The interval grows with the time that a job has waited,
    up to ``MAX_REPUBLISH_FACTOR`` times ``again``: otherwise a slow queue fills with duplicates.
    """
    due = (
        select(Job.id)
        .where(ACTIVE, Job.publish_at <= func.now())
        .order_by(Job.publish_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    longest = timedelta(seconds=MAX_REPUBLISH_FACTOR * again)
    waited = func.least(func.now() - Job.due_at, longest)
    later = func.now() + func.greatest(waited, timedelta(seconds=again))
    statement = update(Job).where(Job.id.in_(due)).values(publish_at=later).returning(Job.id)
    return (await session.scalars(statement)).all()


async def claim_tick(session: AsyncSession, name: str, at: datetime) -> bool:
    """Claim the tick ``at`` of a schedule: ``True`` for exactly one caller.

    A schedule that is seen for the first time starts now, not with a tick before its time.
    """
    first = insert(Schedule).values(name=name, ticked_at=func.now()).on_conflict_do_nothing()
    await session.execute(first)
    ticked = update(Schedule).where(Schedule.name == name, Schedule.ticked_at < at)
    return await _count(session, ticked.values(ticked_at=at)) == 1


async def prune(session: AsyncSession, days: float, dead_days: float, limit: int) -> int:
    """Delete up to ``limit`` jobs that were finished so many days ago; return how many."""
    old = or_(
        Job.finished_at < _in(-dead_days * 86_400),
        (Job.status == "succeeded") & (Job.finished_at < _in(-days * 86_400)),
    )
    expired = select(Job.id).where(old).limit(limit).with_for_update(skip_locked=True)
    return await _count(session, delete(Job).where(Job.id.in_(expired.scalar_subquery())))


def newest(state: str, limit: int) -> Select[*tuple[Any, ...]]:
    """Select the newest jobs in a state."""
    return select(*STATUS).where(Job.status == state).order_by(Job.created_at.desc()).limit(limit)


async def replay(session: AsyncSession, job_id: UUID | None = None) -> int:
    """Queue a dead job again, or all of them, with all attempts anew; return how many.

    Its unique key may be another's by now, so it comes back without one.
    """
    dead = update(Job).where(Job.status == "dead")
    if job_id:
        dead = dead.where(Job.id == job_id)
    again = dead.values(
        status="queued",
        attempts=0,
        unique_key=None,
        finished_at=None,
        due_at=func.now(),
        publish_at=func.now(),
    )
    return await _count(session, again)


def depth() -> Select[str, int, int, float]:
    """Select, for each state that somebody should look at, how many jobs, due ones, longest wait.

    The wait is in seconds, from when the job was due.
    """
    due = func.count().filter(Job.due_at <= func.now())
    wait = func.max(func.extract("epoch", func.now() - Job.due_at))
    watched = select(Job.status, func.count(), due, wait).where(or_(ACTIVE, Job.status == "dead"))
    return watched.group_by(Job.status)
