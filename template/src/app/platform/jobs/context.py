"""Interfaces of a running job: its context and the queue for further jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Protocol
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.data.database import ReadSession
from app.platform.jobs.status import JobStatus, Progress
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

if TYPE_CHECKING:
    import httpx2
    from redis.asyncio import Redis


PROGRESS_INTERVAL = 1.0  # seconds


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

        It belongs to the caller of the request, who alone can read its status. ``unique``: while
        the same job with the same key is queued or running, return its status instead of enqueueing
        another. Raises ``Conflict`` if that one belongs to another caller, and ``TypeError`` if
        ``arguments`` do not match the job's parameters.
        """


class JobContext:
    """Identity and resources of one attempt at a job.

    ``attempt`` counts from 1. An earlier one may have done the work, or a part of it: it failed
    later, or its process died before the result was recorded. Use ``job_id`` to make a job
    idempotent.
    """

    def __init__(
        self,
        app: FastAPI,
        job_id: UUID,
        name: str,
        attempt: int,
        queue_for: Callable[[AsyncSession], JobQueue],
        store_progress: Callable[[Progress], Awaitable[None]],
    ) -> None:
        self._app = app
        self._store_progress = store_progress
        self._reported: tuple[float, str] = (-math.inf, "")  # when, and its message
        self._queue_for = queue_for
        self.job_id = job_id
        self.attempt = attempt
        self.logger = get_logger(f"app.platform.jobs.{name}")

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that commits at the end of the block and rolls back on any exception."""
        transaction: AbstractAsyncContextManager[AsyncSession] = self._app.state.db.transaction()
        return transaction

    async def report_progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Show in the job's status that ``done`` of ``total`` units are done.

        Stores at most one report a second, besides those with another ``message`` and the one that
        reaches ``total``, so that a loop may report each of its rounds. Raises ``ValueError`` for a
        negative number or a message of over 200 characters.
        """
        progress = Progress(done=done, total=total, message=message)
        now, (last, last_message) = time.monotonic(), self._reported
        if now - last >= PROGRESS_INTERVAL or message != last_message or done == total:
            self._reported = (now, message)
            await self._store_progress(progress)

    def queue_for(self, session: AsyncSession) -> JobQueue:
        """A queue that enqueues further jobs in the transaction of ``session``."""
        return self._queue_for(session)

    @property
    def settings(self) -> PlatformSettings:
        settings: PlatformSettings = self._app.state.settings
        return settings

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
