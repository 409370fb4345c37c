"""The job store: the table of all jobs, and every statement that uses it.

The store alone decides whether a job runs. A message in the queue only says that jobs may be due,
so lost, duplicate and late messages are harmless. A worker claims a job for the duration of a lease
and renews the lease while the job runs; once a lease expires, the job is due again. All times are
from the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Delete,
    Executable,
    Index,
    Interval,
    Select,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    delete,
    func,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.base.errors import Conflict
from app.platform.data.database import Base, Database
from app.platform.jobs.status import HELD_BY_ANOTHER, JobStatus, public_status

ACTIVE = text("status IN ('queued', 'running')")
DEAD = text("status = 'dead'")
NOW = select(func.now())
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
        Index("ix_jobs_dead", "created_at", postgresql_where=DEAD),
        {"info": {"outlives_account": "finished jobs are deleted after their retention"}},
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
    # Written as `due_at` is, and indexed. The previous release's scheduler publishes by it.
    publish_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    result: Mapped[Any] = mapped_column(JSONB, nullable=True)
    progress: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    error: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    # The column keeps its first name: renaming it would break the previous release in a deployment.
    trace_context: Mapped[dict[str, str]] = mapped_column("carrier", JSONB)


class Schedule(Base):
    """Last claimed tick of a scheduled job."""

    __tablename__ = "job_schedules"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    ticked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


JOBS = cast("Table", Job.__table__)  # for statements that are built once
DUE = JOBS.c.due_at <= func.now()
SECONDS_FROM_NOW = func.now() + bindparam("seconds", type_=Interval)
STATUS = (
    Job.id,
    Job.name,
    Job.status,
    Job.attempts,
    Job.created_at,
    Job.started_at,
    Job.finished_at,
    Job.progress,
    Job.result,
    Job.error,
)


@dataclass(frozen=True)
class NewJob:
    """A job to add. ``delay``: seconds until it is due."""

    name: str
    arguments: Json
    unique_key: str | None
    owner: str | None
    request_id: str
    trace_context: dict[str, str]
    delay: float = 0


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
            publish_at=_from_now(new.delay),
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


def claiming(chosen: Select[UUID]) -> Executable:
    """A statement that claims the jobs which ``chosen`` selects and locks, for ``seconds``."""
    ids = chosen.cte("chosen")
    running = {
        "status": "running",
        "attempts": JOBS.c.attempts + 1,
        "started_at": func.now(),
        "progress": null(),
        "due_at": SECONDS_FROM_NOW,
        "publish_at": SECONDS_FROM_NOW,
    }
    claimed = update(JOBS).where(JOBS.c.id == ids.c.id).values(running)
    return claimed.returning(
        JOBS.c.id,
        JOBS.c.name,
        JOBS.c.arguments,
        JOBS.c.owner,
        JOBS.c.attempts,
        JOBS.c.started_at,
        JOBS.c.request_id,
        JOBS.c.carrier.label("trace_context"),
        (func.now() - JOBS.c.created_at).label("age"),
    )


CLAIM_DUE = claiming(
    select(JOBS.c.id)
    .where(ACTIVE, JOBS.c.publish_at <= func.now(), DUE)
    .order_by(JOBS.c.publish_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)


async def claim_due(database: Database, limit: int, lease: float) -> list[Claim]:
    """Claim up to ``limit`` jobs for ``lease`` seconds: due ones, those that waited longest."""
    return await execute_claim(database, CLAIM_DUE, lease, limit=limit)


async def execute_claim(
    database: Database, statement: Executable, lease: float, **values: object
) -> list[Claim]:
    """The jobs that a statement of ``claiming`` claims, for ``lease`` seconds."""
    values["seconds"] = timedelta(seconds=lease)
    rows = await database.autocommit(lambda c: c.execute(statement, values).all())
    return [Claim(*row) for row in rows]


# The attempt that holds the claim: its successor has another `started_at`.
HELD = update(JOBS).where(
    JOBS.c.id == bindparam("held_id"),
    JOBS.c.started_at == bindparam("held_since"),
    JOBS.c.status == "running",
)
LATER = {"due_at": SECONDS_FROM_NOW, "publish_at": SECONDS_FROM_NOW}
AGAIN = {"status": "queued", "error": bindparam("new_error", type_=Text), **LATER}
REPORT = HELD.values(progress=bindparam("new_progress", type_=JSONB))
RENEW = HELD.values(LATER)
RETRY = HELD.values(AGAIN)
POSTPONE = HELD.values({**AGAIN, "attempts": JOBS.c.attempts - 1})
MARK_DEAD = HELD.values(status="dead", error=bindparam("new_error"), finished_at=func.now())
RELEASE = HELD.values(
    status="queued", attempts=JOBS.c.attempts - 1, due_at=func.now(), publish_at=func.now()
)
SUCCEED = text(
    "UPDATE jobs SET status = 'succeeded', error = NULL, finished_at = now(),"
    " result = CAST(done.result AS jsonb)"
    " FROM unnest(CAST(:ids AS uuid[]), CAST(:since AS timestamptz[]), CAST(:results AS text[]))"
    " AS done (id, started_at, result)"
    " WHERE jobs.id = done.id AND jobs.started_at = done.started_at AND jobs.status = 'running'"
    " RETURNING jobs.id, jobs.started_at"
).bindparams(
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("since", type_=ARRAY(DateTime(timezone=True))),
    bindparam("results", type_=ARRAY(Text)),
)


async def _update_held(
    database: Database, statement: Update, claimed: Claim, **values: object
) -> bool:
    """Execute one of the statements above; ``False`` if the lease was lost."""
    held = {"held_id": claimed.id, "held_since": claimed.started_at, **values}
    return await database.autocommit(lambda c: c.execute(statement, held).rowcount) == 1


async def renew(database: Database, claimed: Claim, lease: float) -> bool:
    """Extend the lease to ``lease`` seconds from now; ``False`` if it was lost."""
    return await _update_held(database, RENEW, claimed, seconds=timedelta(seconds=lease))


async def report(database: Database, claimed: Claim, progress: Json) -> bool:
    """Store how far the job is; ``False`` if the lease was lost."""
    return await _update_held(database, REPORT, claimed, new_progress=progress)


async def succeed(database: Database, done: Sequence[tuple[Claim, str]]) -> list[bool]:
    """Store the result of each claim, as JSON, in one statement; ``False`` if its lease was lost.

    Raises if Postgres cannot store one of the results, and then stores none.
    """
    values = {
        "ids": [claimed.id for claimed, _ in done],
        "since": [claimed.started_at for claimed, _ in done],
        "results": [result for _, result in done],
    }
    rows = await database.autocommit(lambda c: c.execute(SUCCEED, values).all())
    stored = {tuple(row) for row in rows}
    return [(claimed.id, claimed.started_at) in stored for claimed, _ in done]


async def retry(database: Database, claimed: Claim, error: str, delay: float) -> bool:
    """Requeue the job to run in ``delay`` seconds; ``False`` if the lease was lost."""
    seconds = timedelta(seconds=delay)
    return await _update_held(database, RETRY, claimed, new_error=error, seconds=seconds)


async def postpone(database: Database, claimed: Claim, error: str, delay: float) -> bool:
    """Requeue the job without counting this attempt; ``False`` if the lease was lost."""
    seconds = timedelta(seconds=delay)
    return await _update_held(database, POSTPONE, claimed, new_error=error, seconds=seconds)


async def mark_dead(database: Database, claimed: Claim, error: str) -> bool:
    """Mark the job as dead; ``False`` if the lease was lost."""
    return await _update_held(database, MARK_DEAD, claimed, new_error=error)


async def release(database: Database, claimed: Claim) -> bool:
    """Requeue the job at once without counting this attempt; ``False`` if the lease was lost."""
    return await _update_held(database, RELEASE, claimed)


async def _row_count(session: AsyncSession, statement: Update | Delete) -> int:
    result = await session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def select_ticks() -> Select[str, datetime, datetime]:
    """Per scheduled job: its last claimed tick, and the time now."""
    return select(Schedule.name, Schedule.ticked_at, func.now())


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
    retention = min(retention_days, dead_retention_days)
    old = Job.finished_at < _from_now(-retention * 86_400)  # a range of the index
    expired = or_(
        Job.finished_at < _from_now(-dead_retention_days * 86_400),
        (Job.status == "succeeded") & (Job.finished_at < _from_now(-retention_days * 86_400)),
    )
    # In the order of the index, oldest first: a scan of the table would have to pass all rows that
    # are kept, and all that have been deleted since the last vacuum.
    batch = select(Job.id).where(old, expired).order_by(Job.finished_at).limit(limit)
    ids = batch.with_for_update(skip_locked=True).scalar_subquery()
    return await _row_count(session, delete(Job).where(Job.id.in_(ids)))


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
    backlog = select(Job.status, func.count(), due, wait).where(or_(ACTIVE, DEAD))
    return backlog.group_by(Job.status)
