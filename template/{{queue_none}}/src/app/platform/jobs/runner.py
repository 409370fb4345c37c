"""Runs one job in this process, after the response, and keeps its status in Redis.

What that can't do: a job is lost when the process ends, also while it waits for its next attempt;
nothing limits how many run at once; there are no schedules and no dead letters.
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
from app.platform.jobs.attempt import attempt, backoff, reason
from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import JobDefinition
from app.platform.jobs.status import JobStatus
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)


class Run(BaseModel):
    """A job of this process, and who may ask for it."""

    status: JobStatus
    owner: str | None
    arguments: dict[str, Any]
    request_id: str
    carrier: dict[str, str]
    unique_key: str | None = None


def status_key(job_id: UUID) -> str:
    return f"jobs:{job_id}"


class Runner:
    """Runs jobs, and remembers how they are doing."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings

    async def remember(self, run: Run) -> None:
        """Keep the status."""
        seconds = int(self._settings.jobs_retention_days * 86_400)
        value = run.model_dump_json()
        await self._best_effort(
            self._app.state.redis.set(status_key(run.status.id), value, ex=seconds)
        )

    async def run(self, kind: JobDefinition, run: Run, delay: float) -> None:
        """Run a job ``delay`` seconds from now, and again while it fails and has retries left."""
        await self._keep(kind, run, delay)
        await asyncio.sleep(delay)
        tasks = BackgroundTasks()
        with context.bind_request_context(request_id=run.request_id, user_id=run.owner) as current:
            try:
                while not run.status.finished:
                    with tracing.job_span(kind.name, run.carrier) as span:
                        current.trace_id, current.span_id = span.trace_id, span.span_id
                        await self._attempt(kind, run, tasks)
            except asyncio.CancelledError:
                await self._end(run, "dead", error="The process that ran it stopped.")
                raise
            finally:
                await self._free(run)
        await tasks()

    async def _attempt(self, kind: JobDefinition, run: Run, tasks: BackgroundTasks) -> None:
        status = run.status
        status.status, status.started_at = "running", datetime.now(UTC)
        status.attempts += 1
        await self.remember(run)
        start = time.perf_counter()
        jobs = partial(self._app.state.jobs.queue_for, tasks=tasks)
        job = JobContext(self._app, status.id, kind.name, status.attempts, jobs)
        try:
            result = await attempt(kind, job, run.arguments)
        except Exception as error:  # noqa: BLE001 (whatever the job raised)
            await self._fail(kind, run, error)
        else:
            await self._end(run, "succeeded", result=result)
            duration = round((time.perf_counter() - start) * 1000, 1)
            logger.info("job succeeded", job=kind.name, job_id=str(status.id), duration_ms=duration)

    async def _fail(self, kind: JobDefinition, run: Run, error: Exception) -> None:
        logger.warning("job raised", job=kind.name, job_id=str(run.status.id), exc_info=error)
        if run.status.attempts > kind.retries:
            await self._end(run, "dead", error=reason(error))
            return
        run.status.status, run.status.error = "queued", reason(error)
        await self.remember(run)
        pause = backoff(
            run.status.attempts, self._settings.jobs_backoff, self._settings.jobs_backoff_max
        )
        await asyncio.sleep(pause)

    async def _end(self, run: Run, state: str, **fields: Any) -> None:
        values = {"status": state, "finished_at": datetime.now(UTC), "error": None, **fields}
        run.status = run.status.model_copy(update=values)
        await self.remember(run)

    async def _keep(self, kind: JobDefinition, run: Run, delay: float) -> None:
        """Keep the unique key for as long as all attempts may take."""
        attempts = kind.retries + 1
        seconds = delay + attempts * (kind.timeout + self._settings.jobs_backoff_max)
        if run.unique_key:
            await self._best_effort(
                self._app.state.redis.set(run.unique_key, str(run.status.id), ex=int(seconds) + 1)
            )

    async def _free(self, run: Run) -> None:
        """Let the next job have the unique key."""
        if run.unique_key:
            await self._best_effort(self._app.state.redis.delete(run.unique_key))

    async def _best_effort(self, command: Awaitable[object]) -> None:
        """Without Redis the job goes on; only nobody can ask for it."""
        try:
            await command
        except RedisError as error:
            logger.warning("job's status not kept", error=reason(error))
