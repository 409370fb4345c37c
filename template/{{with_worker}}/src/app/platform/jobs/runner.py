"""Runs a claimed job: keeps its lease, enforces its timeout and records the outcome."""

import asyncio
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Self

from fastapi import FastAPI

from app.platform.base import context
from app.platform.base.tasks import cancel
from app.platform.data.database import Database
from app.platform.jobs import registry, store
from app.platform.jobs.attempt import attempt
from app.platform.jobs.changes import announce
from app.platform.jobs.context import JobContext
from app.platform.jobs.outcomes import Outcomes
from app.platform.jobs.status import JobState, Progress
from app.platform.jobs.store import Claim
from app.platform.jobs.watchdog import LeaseLost, Running, Watchdog
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# Seconds for the `finally` clauses of a cancelled job until it is cancelled again. A job that
# ignores every cancellation is left to the watchdog.
CANCEL_INTERVAL = 1.5
# What an attempt makes of the job; after the other outcomes, another attempt holds it.
OUTCOME_STATES: dict[str, JobState] = {
    "succeeded": "succeeded",
    "dead": "dead",
    "failed": "queued",
    "released": "queued",
    "postponed": "queued",
}

logger = get_logger(__name__)


class WorkerStopping(Exception):
    """The worker is shutting down, and the job did not finish in time."""


class Runner:
    """Runs jobs in this process; the caller limits how many run concurrently.

    A context manager around the lifespan of ``app``, with the watchdog of this event loop;
    ``heartbeat``: see there.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: PlatformSettings,
        heartbeat: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._stopped = False
        self._watchdog = Watchdog(settings, heartbeat)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watchdog.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watchdog.close()

    def stop(self) -> None:
        """Release the jobs that are still running after ``worker_shutdown_timeout`` seconds.

        Callable from any thread and from signal handlers, even while a job blocks the event loop.
        """
        self._watchdog.limit_shutdown()
        timeout = self._settings.worker_shutdown_timeout
        self._loop.call_soon_threadsafe(self._loop.call_later, timeout, self._release_all)

    def _release_all(self) -> None:
        self._stopped = True
        for running in self._watchdog.running():
            running.interrupt(WorkerStopping())

    async def run_claimed(self, claim: Claim) -> None:
        """Run a job that this process has claimed."""
        request_id = claim.request_id or claim.id.hex
        with context.bind_request_context(
            request_id=request_id, user_id=claim.owner, name=claim.name
        ) as current:
            await self._run(claim, current)

    @property
    def database(self) -> Database:
        """The database of the service, once its lifespan has begun."""
        database: Database = self._app.state.db
        return database

    @cached_property
    def _outcomes(self) -> Outcomes:
        return Outcomes(self.database, self._settings)

    async def _run(self, claim: Claim, current: context.RequestContext) -> None:
        start = time.perf_counter()
        outcomes = self._outcomes
        await announce(self._app, claim.id, "running")
        try:
            with tracing.job_span(claim.name, claim.trace_context) as span:
                current.trace_id, current.span_id = span.trace_id, span.span_id
                result = await self._attempt(claim)
        except LeaseLost:
            outcome = "abandoned"
        except WorkerStopping:
            outcome = await outcomes.release(claim)
        except registry.UnknownJobVersion as error:
            outcome = await outcomes.postpone(claim, error)
        except Exception as error:  # noqa: BLE001 (jobs may raise anything)
            outcome = await outcomes.fail(claim, error)
        else:
            outcome = await outcomes.succeed(claim, result)
        seconds = time.perf_counter() - start
        if outcome in OUTCOME_STATES:
            await announce(self._app, claim.id, OUTCOME_STATES[outcome])
        self._app.state.attempt_metrics.observe(claim.name, outcome, seconds)
        log = logger.info if outcome in ("succeeded", "released") else logger.warning
        log(
            f"job {outcome}",
            job=claim.name,
            job_id=str(claim.id),
            attempt=claim.attempts,
            duration_ms=round(seconds * 1000, 1),
            **(current.log_fields or {}),
        )

    async def _attempt(self, claim: Claim) -> Any:
        """Result of the job as JSON; raises what the job raises.

        Returns only once the job has ended, with every call that it has made in a thread: until
        then, it must not run elsewhere. The watchdog ends the process if that takes too long.
        """
        definition = registry.get_definition(claim.name)
        if claim.attempts > definition.retries + 1:
            raise RuntimeError("The worker died in every attempt.")
        with self._watchdog.watch(claim, definition.timeout) as running:
            if self._stopped:
                running.interrupt(WorkerStopping())
            work = asyncio.create_task(self._call(definition, claim, running))
            running.task = work
            try:
                await asyncio.wait({work, running.interrupted}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                raise running.interrupted.result()
            finally:
                await cancel(work, interval=CANCEL_INTERVAL)
                if calls := running.calls():
                    await asyncio.wait(calls)

    async def _report(self, claim: Claim, progress: Progress) -> None:
        if await store.report(self.database, claim, progress.model_dump(mode="json")):
            await announce(self._app, claim.id, "running", progress)

    async def _call(
        self, definition: registry.JobDefinition, claim: Claim, running: Running
    ) -> Any:
        running.track_calls()
        queue_for = self._app.state.jobs.queue_for
        report = partial(self._report, claim)
        job = JobContext(self._app, claim.id, claim.name, claim.attempts, queue_for, report)
        return await attempt(definition, job, claim.arguments)
