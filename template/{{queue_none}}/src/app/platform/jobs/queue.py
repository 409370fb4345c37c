"""Enqueueing without a queue: jobs run in this process, after the response.

A job runs only if the route succeeds and its transaction commits. Its status is in Redis, where
every process can read it.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Concatenate
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import Conflict, Unavailable
from app.platform.base.tasks import cancel
from app.platform.data.database import SessionDep, ensure_open, on_commit
from app.platform.jobs import registry
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.runner import JobRun, Runner, status_key
from app.platform.jobs.status import HELD_BY_ANOTHER, JobRecord, JobStatus, public_status
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings


class BackgroundJobs:
    """Creates the queues of this process."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self.redis = app.state.redis
        self.request_timeout = settings.request_timeout
        self.runner = Runner(app, settings)
        self._running: set[asyncio.Task[None]] = set()

    def queue_for(self, session: AsyncSession, tasks: BackgroundTasks) -> JobQueue:
        return BackgroundQueue(session, tasks, self)

    async def start(self, tasks: BackgroundTasks) -> None:
        """Run ``tasks`` now, for a WebSocket: nothing runs its background tasks."""
        task = asyncio.create_task(tasks())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Cancel the jobs that WebSockets have started."""
        await cancel(*self._running)


class BackgroundQueue:
    """A queue whose jobs run in this process, after the response."""

    def __init__(
        self, session: AsyncSession, tasks: BackgroundTasks, background: BackgroundJobs
    ) -> None:
        self._session = session
        self._tasks = tasks
        self._background = background

    async def enqueue(
        self,
        function: Callable[Concatenate[JobContext, ...], Awaitable[Any]],
        *,
        unique: str | None = None,
        delay: float = 0,
        **arguments: Any,
    ) -> JobStatus:
        ensure_open(self._session)
        definition = registry.definition_of(function)
        current = context.current()
        record = JobRecord(
            id=uuid4(),
            name=definition.name,
            status="queued",
            attempts=0,
            created_at=datetime.now(UTC),
        )
        run = JobRun(
            status=record,
            owner=current.user_id,
            arguments=definition.dump_arguments(arguments),
            request_id=current.request_id,
            trace_context=tracing.inject(),
            unique_key=f"jobs:unique:{definition.name}:{unique}" if unique else None,
        )
        if run.unique_key and (holder := await self._claim_unique_key(run)):
            return holder
        on_commit(self._session, partial(self._background.runner.save, run))
        self._tasks.add_task(self._background.runner.run, definition, run, delay)
        return JobStatus.model_validate(record)

    async def _claim_unique_key(self, run: JobRun) -> JobStatus | None:
        """Claim the unique key; if another job holds it, return the status of that job.

        The claim lasts as long as a request may take; the job extends it when it starts. Raises
        ``Conflict`` if that job belongs to another owner.
        """
        redis, new = self._background.redis, run.status
        seconds = math.ceil(self._background.request_timeout) + 1
        try:
            if await redis.set(run.unique_key, run.claim, nx=True, ex=seconds):
                return None
            holder = await redis.get(run.unique_key)
            job_id, _, owner = (holder or "").partition(":")
            stored = await redis.get(status_key(UUID(job_id))) if holder else None
        except RedisError:
            raise Unavailable(
                "Unique jobs cannot be enqueued while Redis is unavailable."
            ) from None
        if holder is None:  # the other job has just finished
            return await self._claim_unique_key(run)
        # Without a stored status, the other job's transaction has not committed yet.
        record = (
            JobRun.model_validate_json(stored).status
            if stored
            else new.model_copy(update={"id": UUID(job_id)})
        )
        status = public_status(record, owner or None, run.owner)
        if status is None:
            raise Conflict(HELD_BY_ANOTHER)
        return status


async def _queue(
    connection: HTTPConnection, session: SessionDep, tasks: BackgroundTasks
) -> JobQueue:
    background: BackgroundJobs = connection.app.state.jobs
    if connection.scope["type"] == "websocket":
        on_commit(session, partial(background.start, tasks))
    return background.queue_for(session, tasks)


Jobs = Annotated[JobQueue, Depends(_queue)]


async def find_status(app: FastAPI, job_id: UUID, owner: str | None) -> JobStatus | None:
    """Status of a job that belongs to ``owner`` or has no owner; otherwise ``None``."""
    try:
        stored = await app.state.redis.get(status_key(job_id))
    except RedisError:
        raise Unavailable("The status of jobs is not available at the moment.") from None
    run = JobRun.model_validate_json(stored) if stored else None
    return public_status(run.status, run.owner, caller=owner) if run else None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    registry.discover()
    if scheduled := ", ".join(each.name for each in registry.scheduled()):
        raise ValueError(
            f"{scheduled}: `cron` requires a scheduler, which `queue: none` does not have; "
            "choose another queue: copier update -d queue=..."
        )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.jobs = background = BackgroundJobs(app, settings)
        yield
        await background.stop()

    return lifespan
