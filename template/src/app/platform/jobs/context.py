"""Interfaces of a running job: its context and the queue for further jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Protocol
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.data.database import ReadSession
from app.platform.jobs.status import JobStatus
from app.platform.observability.logs import get_logger

if TYPE_CHECKING:
    import httpx2
    from redis.asyncio import Redis


class JobQueue(Protocol):
    """A job queue within one transaction."""

    async def enqueue(
        self,
        function: Callable[Concatenate[JobContext, ...], Awaitable[Any]],
        *,
        unique: str | None = None,
        delay: float = 0,
        **arguments: Any,
    ) -> JobStatus:
        """Enqueue a job that starts ``delay`` seconds after the transaction commits.

        ``unique``: while the same job with the same key is queued or running, return its status
        instead of enqueueing another. Raises ``Conflict`` if that one belongs to another owner, and
        ``TypeError`` if ``arguments`` do not match the job's parameters.
        """


class JobContext:
    """Identity and resources of one attempt at a job.

    ``attempt`` counts from 1. Jobs run at least once: a worker may die after the work is done and
    before that is recorded. Use ``job_id`` to make a job idempotent.
    """

    def __init__(
        self,
        app: FastAPI,
        job_id: UUID,
        name: str,
        attempt: int,
        queue_for: Callable[[AsyncSession], JobQueue],
    ) -> None:
        self._app = app
        self._queue_for = queue_for
        self.job_id = job_id
        self.attempt = attempt
        self.logger = get_logger(f"app.platform.jobs.{name}")

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that commits at the end of the block and rolls back on any exception."""
        transaction: AbstractAsyncContextManager[AsyncSession] = self._app.state.db.transaction()
        return transaction

    def queue_for(self, session: AsyncSession) -> JobQueue:
        """A queue that enqueues further jobs in the transaction of ``session``."""
        return self._queue_for(session)

    @property
    def read_session(self) -> ReadSession:
        read_session: ReadSession = self._app.state.read_session
        return read_session

    @property
    def redis(self) -> Redis:
        redis: Redis = self._app.state.redis
        return redis

    @property
    def http(self) -> httpx2.AsyncClient:
        http: httpx2.AsyncClient = self._app.state.http
        return http
