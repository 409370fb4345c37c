"""Enqueueing: a row in the caller's transaction, then a message to the queue after its commit.

This is the transactional outbox pattern: a job exists if and only if the transaction commits.
Publishing the message is best effort, and no request waits for it: if that fails or this process
dies, the job starts later.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Annotated, Any, Concatenate
from uuid import UUID

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.data.database import SessionDep, on_commit
from app.platform.jobs import registry, schedules, store
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.metrics import TTL, AttemptMetrics, collect_backlog, collect_schedules
from app.platform.jobs.publishing import pass_on, publish_new
from app.platform.jobs.scheduler import SchedulerThread
from app.platform.jobs.status import JobStatus
from app.platform.jobs.transport import Transport
from app.platform.observability import metrics, tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

MAX_PENDING = 1000  # job ids per process; the rest starts later

logger = get_logger(__name__)


class Publisher:
    """Publishes the ids of committed jobs in batches, in a background task."""

    def __init__(self, publish: Callable[[Sequence[UUID]], Awaitable[None]]) -> None:
        self._publish = publish
        self._pending: list[UUID] = []
        self._task: asyncio.Task[None] | None = None

    def queue_for(self, session: AsyncSession) -> JobQueue:
        return StoreQueue(session, self)

    def publish(self, ids: Sequence[UUID]) -> None:
        """Publish ``ids`` soon; those that are skipped or fail are published later."""
        self._pending.extend(ids[: MAX_PENDING - len(self._pending)])
        if self._task is None or self._task.done():
            # In a context of its own: whichever request comes first, it is not this task's.
            self._task = asyncio.create_task(self._drain(), context=Context())

    async def _drain(self) -> None:
        while self._pending:
            ids, self._pending = self._pending, []
            try:
                await self._publish(ids)
            except Exception as error:  # noqa: BLE001 (outages raise many types)
                logger.warning(
                    "queue unavailable; the jobs will start later",
                    error=error_summary(error),
                )

    async def flush(self) -> None:
        """Wait until pending ids are published, before the process stops."""
        if self._task:
            await self._task


class StoreQueue:
    """A queue that adds jobs to the store."""

    def __init__(self, session: AsyncSession, publisher: Publisher) -> None:
        self._session = session
        self._publisher = publisher

    async def enqueue(
        self,
        function: Callable[Concatenate[JobContext, ...], Awaitable[Any]],
        *,
        unique: str | None = None,
        delay: float = 0,
        **arguments: Any,
    ) -> JobStatus:
        definition = registry.definition_of(function)
        current = context.current()
        new = store.NewJob(
            name=definition.name,
            arguments=definition.dump_arguments(arguments),
            unique_key=unique,
            owner=current.user_id,
            request_id=current.request_id,
            trace_context=tracing.inject(),
            delay=delay,
        )
        status, added = await store.add(self._session, new)
        if added and delay <= 0:
            on_commit(self._session, partial(self._publish, status.id))
        return status

    async def _publish(self, job_id: UUID) -> None:
        self._publisher.publish([job_id])


async def _queue(connection: HTTPConnection, session: SessionDep) -> JobQueue:
    queue: JobQueue = connection.app.state.jobs.queue_for(session)
    return queue


Jobs = Annotated[JobQueue, Depends(_queue)]


async def find_status(app: FastAPI, job_id: UUID, owner: str | None) -> JobStatus | None:
    """Status of a job that belongs to ``owner`` or has no owner; otherwise ``None``."""
    row = await app.state.read_session.first(store.select_status(job_id, owner))
    return JobStatus.model_validate(row) if row else None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    registry.discover()
    schedules.validate(registry.scheduled())
    metrics.register(app, "jobs", partial(collect_backlog, app), ttl=TTL)
    metrics.register(app, "job_schedules", partial(collect_schedules, app), ttl=TTL)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.transport = Transport(app, settings)
        app.state.jobs = publisher = Publisher(partial(publish_new, app.state.transport, settings))
        app.state.wake_another = partial(pass_on, app)  # for workers
        app.state.scheduler = SchedulerThread(settings)  # which a worker starts
        app.state.attempt_metrics = AttemptMetrics(app.state.metrics.registry)
        yield
        await publisher.flush()

    return lifespan
