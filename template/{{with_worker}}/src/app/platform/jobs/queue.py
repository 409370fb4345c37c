"""Enqueuing: a row in the caller's transaction, and a hint to the queue once it is committed.

The hint is best effort, and no request waits for it: when Redis is away, or this process dies, the
scheduler gives it later. So a job is never lost after a commit, and there is none after a rollback.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Concatenate
from uuid import UUID

from fastapi import Depends, FastAPI, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.data.database import SessionDep, on_commit
from app.platform.jobs import registry, schedules, store
from app.platform.jobs.attempt import reason
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.metrics import Attempts, Backlog
from app.platform.jobs.status import JobStatus
from app.platform.jobs.transport import Transport
from app.platform.observability import metrics, tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

PUBLISH_GRACE = 5.0  # seconds that the enqueuing process has to publish a job
MOST_WAITING = 1000  # jobs that a process keeps for the queue; the scheduler has the rest
COMMITTED = "jobs"

logger = get_logger(__name__)


class Publisher:
    """Gives the queue its hints, a batch at a time, while the requests go on.

    At ``limit`` waiting jobs it stops: a flood is kept in Postgres, and not in Redis' memory.
    """

    def __init__(self, transport: Transport, limit: int) -> None:
        self._transport = transport
        self._limit = limit
        self._waiting: list[UUID] = []
        self._task: asyncio.Task[None] | None = None

    def queue_for(self, session: AsyncSession) -> JobQueue:
        return StoreQueue(session, self)

    def publish(self, ids: Sequence[UUID]) -> None:
        """Publish soon; what is too much, or fails, is the scheduler's."""
        self._waiting.extend(ids[: MOST_WAITING - len(self._waiting)])
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        while self._waiting:
            ids, self._waiting = self._waiting, []
            try:
                room = self._limit - await self._transport.depth()
                await self._transport.publish(ids[: max(room, 0)])
            except Exception as error:  # noqa: BLE001 (outages look many ways)
                logger.warning("queue unavailable, jobs start later", error=reason(error))

    async def finish(self) -> None:
        """Publish what is left, before this process stops."""
        if self._task:
            await self._task


class StoreQueue:
    """A queue whose jobs are rows of the ledger."""

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
        kind = registry.definition_of(function)
        current = context.current()
        new = store.NewJob(
            name=kind.name,
            arguments=kind.to_json(arguments),
            unique_key=unique,
            owner=current.user_id,
            request_id=current.request_id,
            carrier=tracing.inject(),
            delay=delay,
            publish_grace=PUBLISH_GRACE if delay <= 0 else 0,
        )
        status, added = await store.add(self._session, new)
        if added and delay <= 0:
            self._publish_after_commit(status.id)
        return status

    def _publish_after_commit(self, job_id: UUID) -> None:
        if COMMITTED not in self._session.info:
            on_commit(self._session, self._publish)
        self._session.info.setdefault(COMMITTED, []).append(job_id)

    async def _publish(self) -> None:
        ids: list[UUID] = self._session.info.pop(COMMITTED, [])
        self._publisher.publish(ids)


async def _queue(request: Request, session: SessionDep) -> JobQueue:
    queue: JobQueue = request.app.state.jobs.queue_for(session)
    return queue


Jobs = Annotated[JobQueue, Depends(_queue)]


async def find(app: FastAPI, job_id: UUID, owner: str | None) -> JobStatus | None:
    """Return the status of a job of ``owner``, or of one that nobody owns."""
    row = await app.state.read_session.first(store.by_id(job_id, owner))
    return JobStatus.model_validate(row) if row else None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    registry.discover()
    schedules.check(registry.scheduled())
    metrics.register(app, Backlog(app).collect)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.transport = Transport(app, settings)
        app.state.jobs = publisher = Publisher(app.state.transport, settings.jobs_queue_limit)
        app.state.job_attempts = Attempts(app.state.metrics.registry)
        yield
        await publisher.finish()

    return lifespan
