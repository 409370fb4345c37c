"""What a running job is given: the resources that a route gets from its dependencies."""

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
    """A queue that enqueues jobs as part of one transaction."""

    async def enqueue(
        self,
        function: Callable[Concatenate[JobContext, ...], Awaitable[Any]],
        *,
        unique: str | None = None,
        delay: float = 0,
        **arguments: Any,
    ) -> JobStatus:
        """Enqueue a job, to be run after the commit and ``delay`` seconds.

        ``unique``: while a job of this kind with the same key is queued or running, return that
        one and enqueue nothing. Raises ``TypeError`` for arguments that the job can't take.
        """


class JobContext:
    """One attempt at one job.

    ``attempt`` counts from 1. A job may run more than once, also after it succeeded (its worker
    may die before it can say so): use ``job_id`` to make the second time harmless.
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
        """Open a session that commits at the end, or rolls back when anything was raised."""
        transaction: AbstractAsyncContextManager[AsyncSession] = self._app.state.db.transaction()
        return transaction

    def queue_for(self, session: AsyncSession) -> JobQueue:
        """Return the queue, to enqueue further jobs as part of the transaction of ``session``."""
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
