"""Runs jobs in the API process, after the response, and stores their status in Redis.

Limitations: a job is lost when the process stops, even between attempts; concurrency is not
limited; there are no schedules and no replay of dead jobs.
"""

import asyncio
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.background import BackgroundTasks

from app.platform.base import context
from app.platform.jobs.attempt import attempt, backoff, error_summary
from app.platform.jobs.changes import announce
from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import JobDefinition
from app.platform.jobs.status import JobRecord, JobState, Progress
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)


class JobRun(BaseModel):
    """A job of this process, with its owner and its trace context."""

    status: JobRecord
    owner: str | None
    arguments: dict[str, Any]
    request_id: str
    trace_context: dict[str, str]
    unique_key: str | None = None

    @property
    def claim(self) -> str:
        """The value of the unique key: the job's id and its owner."""
        return f"{self.status.id}:{self.owner or ''}"


def status_key(job_id: UUID) -> str:
    return f"jobs:{job_id}"


class Runner:
    """Runs jobs and stores their status."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings

    async def save(self, run: JobRun) -> None:
        """Store the status of a job, if Redis is available, and announce it."""
        seconds = int(self._settings.jobs_retention_days * 86_400)
        value = run.model_dump_json()
        await self._best_effort(
            self._app.state.redis.set(status_key(run.status.id), value, ex=seconds)
        )
        await announce(self._app, run.status.id, run.status.status, run.status.progress)

    async def run(self, definition: JobDefinition, run: JobRun, delay: float) -> None:
        """Run a job after ``delay`` seconds, and retry it while it fails and has retries left."""
        await self._extend_unique_key(definition, run, delay)
        await asyncio.sleep(delay)
        tasks = BackgroundTasks()
        with context.bind_request_context(request_id=run.request_id, user_id=run.owner) as current:
            try:
                while not run.status.finished:
                    with tracing.job_span(definition.name, run.trace_context) as span:
                        current.trace_id, current.span_id = span.trace_id, span.span_id
                        await self._attempt(definition, run, tasks)
            except asyncio.CancelledError:
                await self._finish(run, "dead", error="The process that ran the job stopped.")
                raise
            finally:
                await self._release_unique_key(run)
        await tasks()

    async def _attempt(
        self, definition: JobDefinition, run: JobRun, tasks: BackgroundTasks
    ) -> None:
        status = run.status
        status.status, status.started_at = "running", datetime.now(UTC)
        status.progress = None
        status.attempts += 1
        await self.save(run)
        start = time.perf_counter()
        queue_for = partial(self._app.state.jobs.queue_for, tasks=tasks)
        report = partial(self._report, run)
        job = JobContext(self._app, status.id, definition.name, status.attempts, queue_for, report)
        try:
            result = await attempt(definition, job, run.arguments)
        except Exception as error:  # noqa: BLE001 (jobs may raise anything)
            await self._fail(definition, run, error)
        else:
            await self._finish(run, "succeeded", result=result)
            logger.info(
                "job succeeded",
                job=definition.name,
                job_id=str(status.id),
                duration_ms=round((time.perf_counter() - start) * 1000, 1),
            )

    async def _report(self, run: JobRun, progress: Progress) -> None:
        run.status.progress = progress
        await self.save(run)

    async def _fail(self, definition: JobDefinition, run: JobRun, error: Exception) -> None:
        status = run.status
        logger.warning("job raised", job=definition.name, job_id=str(status.id), exc_info=error)
        if status.attempts > definition.retries:
            await self._finish(run, "dead", error=error_summary(error))
            return
        status.status, status.error = "queued", error_summary(error)
        await self.save(run)
        await asyncio.sleep(
            backoff(status.attempts, self._settings.jobs_backoff, self._settings.jobs_backoff_max)
        )

    async def _finish(self, run: JobRun, state: JobState, **fields: Any) -> None:
        values = {"status": state, "finished_at": datetime.now(UTC), "error": None, **fields}
        run.status = run.status.model_copy(update=values)
        await self.save(run)

    async def _extend_unique_key(
        self, definition: JobDefinition, run: JobRun, delay: float
    ) -> None:
        """Keep the unique key for the longest time that all attempts can take."""
        attempts = definition.retries + 1
        seconds = delay + attempts * (definition.timeout + self._settings.jobs_backoff_max)
        if run.unique_key:
            await self._best_effort(
                self._app.state.redis.set(run.unique_key, run.claim, ex=int(seconds) + 1)
            )

    async def _release_unique_key(self, run: JobRun) -> None:
        if run.unique_key:
            await self._best_effort(self._app.state.redis.delete(run.unique_key))

    async def _best_effort(self, command: Awaitable[object]) -> None:
        """Await a Redis command; without Redis, the job runs but its status is not available."""
        try:
            await command
        except RedisError as error:
            logger.warning("job status not stored", error=error_summary(error))
