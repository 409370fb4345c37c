"""Runs a job: claims it, renews its lease, enforces its timeout and records the outcome."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base import context
from app.platform.jobs import registry, store
from app.platform.jobs.attempt import attempt, backoff, error_summary
from app.platform.jobs.context import JobContext
from app.platform.jobs.store import Claim
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# During a deployment, each release receives jobs that only the other one can run.
RELEASE_OVERLAP = timedelta(hours=1)
# Seconds for the `finally` clauses of a cancelled job, which is cancelled again halfway through.
CANCEL_TIMEOUT = 5.0
RECORD_RETRY_DELAYS = (0.2, 1.0, 3.0, 10.0)  # seconds

logger = get_logger(__name__)


class LeaseLost(Exception):
    """The lease has expired: another worker may run the job, and this attempt does not count."""


class UnstorableResult(Exception):
    """Postgres cannot store the job's result."""


class WorkerStopping(Exception):
    """The worker is shutting down, and the job did not finish in time."""


class Runner:
    """Runs jobs in this process; the caller limits how many run concurrently."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Release the jobs that are still running after ``worker_shutdown_timeout`` seconds."""
        timeout = self._settings.worker_shutdown_timeout
        asyncio.get_running_loop().call_later(timeout, self._stopping.set)

    async def run(self, job_id: UUID) -> None:
        """Run a job if it is due. Raises only if the database is unavailable."""
        async with self._app.state.db.transaction() as session:
            claim = await store.claim(session, job_id, self._settings.jobs_lease)
        if claim is None:
            return
        request_id = claim.request_id or claim.id.hex
        with context.bind_request_context(request_id=request_id, user_id=claim.owner) as current:
            await self._run(claim, current)

    async def _run(self, claim: Claim, current: context.RequestContext) -> None:
        start = time.perf_counter()
        try:
            with tracing.job_span(claim.name, claim.trace_context) as span:
                current.trace_id, current.span_id = span.trace_id, span.span_id
                result = await self._attempt(claim)
        except LeaseLost:
            outcome = "abandoned"
        except WorkerStopping:
            outcome = await self._record_outcome(partial(store.release, claimed=claim), "released")
        except registry.UnknownJobVersion as error:
            outcome = await self._postpone(claim, error)
        except Exception as error:  # noqa: BLE001 (jobs may raise anything)
            outcome = await self._fail(claim, error)
        else:
            outcome = await self._succeed(claim, result)
        seconds = time.perf_counter() - start
        self._app.state.attempt_metrics.observe(claim.name, outcome, seconds)
        log = logger.info if outcome in ("succeeded", "released") else logger.warning
        log(
            f"job {outcome}",
            job=claim.name,
            job_id=str(claim.id),
            attempt=claim.attempts,
            duration_ms=round(seconds * 1000, 1),
        )

    async def _attempt(self, claim: Claim) -> Any:
        """Result of the job as JSON; raises what the job raises."""
        work = asyncio.create_task(self._call(claim))
        lease = asyncio.create_task(self._renew_lease(claim))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, lease, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise LeaseLost if lease.done() else WorkerStopping
        finally:
            for _ in range(2):  # wait_for() of Python 3.11, used by redis-py, can lose the first
                for task in (work, lease, stop):
                    task.cancel()
                await asyncio.wait({work, lease, stop}, timeout=CANCEL_TIMEOUT / 2)

    async def _call(self, claim: Claim) -> Any:
        definition = registry.get_definition(claim.name)
        if claim.attempts > definition.retries + 1:
            raise RuntimeError("The worker died in every attempt.")
        queue_for = self._app.state.jobs.queue_for
        job = JobContext(self._app, claim.id, claim.name, claim.attempts, queue_for)
        return await attempt(definition, job, claim.arguments)

    async def _renew_lease(self, claim: Claim) -> None:
        """Renew the lease until it is lost."""
        held = True
        while held:
            await asyncio.sleep(self._settings.jobs_lease / 3)
            try:
                async with self._app.state.db.transaction() as session:
                    held = await store.renew(session, claim, self._settings.jobs_lease)
            except Exception as error:  # noqa: BLE001 (outages raise many types)
                # No other worker can claim the job while the database is unavailable.
                logger.warning(
                    "lease not renewed", job_id=str(claim.id), error=error_summary(error)
                )

    async def _succeed(self, claim: Claim, result: Any) -> str:
        try:
            return await self._record_outcome(
                partial(store.succeed, claimed=claim, result=result), "succeeded"
            )
        except UnstorableResult as error:
            return await self._fail(claim, error)

    async def _postpone(self, claim: Claim, error: registry.UnknownJobVersion) -> str:
        """Leave the job to the other release, or fail it once ``RELEASE_OVERLAP`` has passed."""
        if claim.age > RELEASE_OVERLAP:
            return await self._fail(claim, error)
        summary = error_summary(error)
        logger.warning("job belongs to another release", job_id=str(claim.id), error=summary)
        # Random, so that the same worker does not receive the same jobs every time.
        jitter = random.uniform(0, claim.age.total_seconds() / 5)  # noqa: S311 (not a secret)
        delay = max(self._settings.jobs_backoff, jitter)
        record = partial(store.postpone, claimed=claim, error=summary, delay=delay)
        return await self._record_outcome(record, "postponed")

    async def _fail(self, claim: Claim, error: Exception) -> str:
        """Requeue the job with a delay, or mark it as dead if it has no retries left."""
        logger.warning("job raised", job=claim.name, job_id=str(claim.id), exc_info=error)
        summary = error_summary(error)
        if claim.attempts > self._retries(claim.name):
            record = partial(store.mark_dead, claimed=claim, error=summary)
            return await self._record_outcome(record, "dead")
        delay = backoff(
            claim.attempts, self._settings.jobs_backoff, self._settings.jobs_backoff_max
        )
        record = partial(store.retry, claimed=claim, error=summary, delay=delay)
        return await self._record_outcome(record, "failed")

    def _retries(self, name: str) -> int:
        try:
            return registry.get_definition(name).retries
        except LookupError:
            return registry.DEFAULT_RETRIES

    async def _record_outcome(
        self, record: Callable[[AsyncSession], Awaitable[bool]], outcome: str
    ) -> str:
        """Record how the job ended; retries through short outages, so that it is not run again."""
        for delay in (*RECORD_RETRY_DELAYS, None):
            try:
                async with self._app.state.db.transaction() as session:
                    return outcome if await record(session) else "abandoned"
            except Exception as error:
                if _is_data_exception(error):
                    raise UnstorableResult(
                        "The result cannot be stored as JSON in Postgres."
                    ) from error
                summary = error_summary(error)
                logger.warning("job outcome not recorded", outcome=outcome, error=summary)
                if delay is None:
                    return "abandoned"
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")


def _is_data_exception(error: Exception) -> bool:
    """Whether Postgres rejected the data itself: data exception or program limit exceeded.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return str(getattr(getattr(error, "orig", None), "sqlstate", "")).startswith(("22", "54"))
