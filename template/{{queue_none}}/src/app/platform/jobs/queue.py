"""Enqueuing without a queue: the job runs in this process, after the response.

It runs only if the route succeeds and its transaction is committed. The status is kept in Redis, so
that any process can tell it.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Concatenate
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Request
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.background import BackgroundTasks

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import Unavailable
from app.platform.data.database import SessionDep, on_commit
from app.platform.jobs import registry
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.runner import Run, Runner, status_key
from app.platform.jobs.status import JobStatus
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings


class Background:
    """What this process enqueues with."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self.redis = app.state.redis
        self.request_timeout = settings.request_timeout
        self.runner = Runner(app, settings)

    def queue_for(self, session: AsyncSession, tasks: BackgroundTasks) -> JobQueue:
        return BackgroundQueue(session, tasks, self)


class BackgroundQueue:
    """A queue whose jobs run in this process, after the response."""

    def __init__(
        self, session: AsyncSession, tasks: BackgroundTasks, background: Background
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
        kind = registry.definition_of(function)
        current = context.current()
        status = JobStatus(
            id=uuid4(), name=kind.name, status="queued", attempts=0, created_at=datetime.now(UTC)
        )
        run = Run(
            status=status,
            owner=current.user_id,
            arguments=kind.to_json(arguments),
            request_id=current.request_id,
            carrier=tracing.inject(),
            unique_key=f"jobs:unique:{kind.name}:{unique}" if unique else None,
        )
        if run.unique_key and (holder := await self._holder(run)):
            return holder
        on_commit(self._session, partial(self._background.runner.remember, run))
        self._tasks.add_task(self._background.runner.run, kind, run, delay)
        return status.model_copy()

    async def _holder(self, run: Run) -> JobStatus | None:
        """Take the unique key; if another job has it, return that one.

        It is taken for the length of a request; the job, once it starts, keeps it for longer.
        """
        redis, new = self._background.redis, run.status
        seconds = math.ceil(self._background.request_timeout) + 1
        try:
            if await redis.set(run.unique_key, str(new.id), nx=True, ex=seconds):
                return None
            holder = await redis.get(run.unique_key)
            stored = await redis.get(status_key(UUID(holder))) if holder else None
        except RedisError:
            raise Unavailable("Whether this job is waiting already can't be told now.") from None
        if holder is None:  # it has just finished
            return await self._holder(run)
        if stored is None:  # its transaction is not committed yet
            return new.model_copy(update={"id": UUID(holder)})
        return Run.model_validate_json(stored).status


async def _queue(request: Request, session: SessionDep, tasks: BackgroundTasks) -> JobQueue:
    queue: JobQueue = request.app.state.jobs.queue_for(session, tasks)
    return queue


Jobs = Annotated[JobQueue, Depends(_queue)]


async def find(app: FastAPI, job_id: UUID, owner: str | None) -> JobStatus | None:
    """Return the status of a job of ``owner``, or of one that nobody owns."""
    try:
        stored = await app.state.redis.get(status_key(job_id))
    except RedisError:
        raise Unavailable("How this job is doing can't be told now.") from None
    run = Run.model_validate_json(stored) if stored else None
    return run.status if run and run.owner in (owner, None) else None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    registry.discover()
    if scheduled := ", ".join(kind.name for kind in registry.scheduled()):
        raise ValueError(
            f"{scheduled}: `cron` needs a scheduler, which `queue: none` does not have; "
            "choose one with a worker: copier update -d queue=..."
        )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.jobs = Background(app, settings)
        yield

    return lifespan
