"""Enqueuing: a row in the caller's transaction, and a hint to the queue once it is committed.

The hint is best effort: when Redis is away the request goes on, and the scheduler gives the hint
later. So a job is never lost after a commit, and there is none after a rollback.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Concatenate
from uuid import UUID

from fastapi import Depends, FastAPI, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app import context, tracing
from app.db import Session, on_commit
from app.jobs import ledger, metrics, registry, schedules
from app.jobs.context import Context
from app.jobs.status import JobStatus
from app.jobs.transport import Transport
from app.lifespan import Lifespan
from app.logs import get_logger
from app.settings import Settings

HEAD_START = 5.0  # seconds that the enqueuing process has to publish a job
PAUSE = 5.0  # seconds without attempts to publish after one has failed
AT_ONCE = 100  # jobs of one transaction that it publishes itself; the rest trickles in
COMMITTED = "jobs"

logger = get_logger(__name__)


class Publisher:
    """Gives the queue its hints, and leaves it alone for a moment when it does not answer."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout
        self._paused_until = 0.0

    def within(self, session: AsyncSession) -> "JobQueue":
        return JobQueue(session, self)

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Publish, or else log that it is the scheduler's turn; raises nothing."""
        if time.monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._transport.publish(ids)
        except Exception as error:  # noqa: BLE001 (outages look many ways)
            self._paused_until = time.monotonic() + PAUSE
            logger.warning("queue unavailable, jobs start later", error=repr(error))


class JobQueue:
    """Enqueues jobs as part of one transaction."""

    def __init__(self, session: AsyncSession, publisher: Publisher) -> None:
        self._session = session
        self._publisher = publisher

    async def enqueue(
        self,
        function: Callable[Concatenate[Context, ...], Awaitable[Any]],
        *,
        unique: str | None = None,
        delay: float = 0,
        **arguments: Any,
    ) -> JobStatus:
        """Enqueue a job, to be run after the commit and ``delay`` seconds.

        ``unique``: while a job of this kind with the same key is queued or running, return that
        one and enqueue nothing. Raises ``TypeError`` for arguments that the job can't take.
        """
        kind = registry.of(function)
        current = context.current()
        new = ledger.New(
            name=kind.name,
            arguments=kind.to_json(arguments),
            unique_key=unique,
            owner=current.user_id,
            request_id=current.request_id,
            carrier=tracing.inject(),
            delay=delay,
            head_start=HEAD_START if delay <= 0 else 0,
        )
        status, added = await ledger.add(self._session, new)
        if added and delay <= 0:
            self._publish_after_commit(status.id)
        return status

    def _publish_after_commit(self, job_id: UUID) -> None:
        if COMMITTED not in self._session.info:
            on_commit(self._session, self._publish)
        self._session.info.setdefault(COMMITTED, []).append(job_id)

    async def _publish(self) -> None:
        ids: list[UUID] = self._session.info.pop(COMMITTED, [])
        await self._publisher.publish(ids[:AT_ONCE])


async def _queue(request: Request, session: Session) -> JobQueue:
    queue: JobQueue = request.app.state.jobs.within(session)
    return queue


Jobs = Annotated[JobQueue, Depends(_queue)]


async def find(app: FastAPI, job_id: UUID, owner: str | None) -> JobStatus | None:
    """Return the status of a job of ``owner``."""
    row = await app.state.reader.first(ledger.by_id(job_id, owner))
    return JobStatus.model_validate(row) if row else None


def install(app: FastAPI, settings: Settings) -> Lifespan:
    registry.discover()
    schedules.check(registry.scheduled())

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.transport = Transport(app, settings)
        app.state.jobs = Publisher(app.state.transport, settings.jobs_publish_timeout)
        with metrics.collecting(app):
            yield

    return lifespan
