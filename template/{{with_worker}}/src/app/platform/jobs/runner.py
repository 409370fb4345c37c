"""Runs one job: claims it, holds its lease, ends it in time, and writes down what became of it."""

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
from app.platform.jobs.attempt import attempt, backoff, reason
from app.platform.jobs.context import JobContext
from app.platform.jobs.store import Claim
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# While one release replaces another, either meets jobs that only the other can run.
RELEASE_OVERLAP = timedelta(hours=1)
CANCEL_TIMEOUT = (
    5.0  # seconds that a cancelled job has for its `finally` clauses, half of them undisturbed
)
WRITE_AGAIN = (0.2, 1.0, 3.0, 10.0)  # seconds between attempts to write down how a job ended

logger = get_logger(__name__)


class LeaseLost(Exception):
    """Another worker may run the job by now: this attempt no longer counts."""


class Unstorable(Exception):
    """The job's result is nothing that Postgres takes, however often it is asked."""


class Stopping(Exception):
    """The worker stops, and the job was not finished in time."""


class Runner:
    """Runs jobs in this process, as many at once as the queue's worker asks for."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let running jobs go on for ``worker_shutdown_timeout`` seconds, then give them back."""
        grace = self._settings.worker_shutdown_timeout
        asyncio.get_running_loop().call_later(grace, self._stopping.set)

    async def run(self, job_id: UUID) -> None:
        """Run a job if it is due. Raises only when the database can't be reached."""
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
            with tracing.job_span(claim.name, claim.carrier) as span:
                current.trace_id, current.span_id = span.trace_id, span.span_id
                result = await self._attempt(claim)
        except LeaseLost:
            outcome = "lost"
        except Stopping:
            outcome = await self._record_outcome(partial(store.release, claimed=claim), "released")
        except registry.UnknownJobVersion as error:
            outcome = await self._postpone(claim, error)
        except Exception as error:  # noqa: BLE001 (whatever the job raised)
            outcome = await self._fail(claim, error)
        else:
            outcome = await self._succeed(claim, result)
        seconds = time.perf_counter() - start
        self._app.state.job_attempts.observe(claim.name, outcome, seconds)
        log = logger.info if outcome in ("succeeded", "released") else logger.warning
        log(
            f"job {outcome}",
            job=claim.name,
            job_id=str(claim.id),
            attempt=claim.attempts,
            duration_ms=round(seconds * 1000, 1),
        )

    async def _attempt(self, claim: Claim) -> Any:
        """Return the result as JSON, or raise what the job raised."""
        work = asyncio.create_task(self._call(claim))
        lease = asyncio.create_task(self._renew_lease(claim))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, lease, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise LeaseLost if lease.done() else Stopping
        finally:
            for _ in range(2):  # `wait_for` of Python 3.11, which redis-py uses, may lose one
                for task in (work, lease, stop):
                    task.cancel()
                await asyncio.wait({work, lease, stop}, timeout=CANCEL_TIMEOUT / 2)

    async def _call(self, claim: Claim) -> Any:
        kind = registry.get_definition(claim.name)
        if claim.attempts > kind.retries + 1:
            raise RuntimeError("Its worker was lost each time that it ran.")
        jobs = self._app.state.jobs.queue_for
        job = JobContext(self._app, claim.id, claim.name, claim.attempts, jobs)
        return await attempt(kind, job, claim.arguments)

    async def _renew_lease(self, claim: Claim) -> None:
        """Renew the lease until it is lost."""
        held = True
        while held:
            await asyncio.sleep(self._settings.jobs_lease / 3)
            try:
                async with self._app.state.db.transaction() as session:
                    held = await store.renew(session, claim, self._settings.jobs_lease)
            except Exception as error:  # noqa: BLE001 (outages look many ways)
                # While the database is away nobody else can take the job either.
                logger.warning("lease not renewed", job_id=str(claim.id), error=reason(error))

    async def _succeed(self, claim: Claim, result: Any) -> str:
        try:
            return await self._record_outcome(
                partial(store.succeed, claimed=claim, result=result), "succeeded"
            )
        except Unstorable as error:
            return await self._fail(claim, error)

    async def _postpone(self, claim: Claim, error: registry.UnknownJobVersion) -> str:
        """Leave the job to the other release, at no cost; once a deployment is over, it failed."""
        if claim.age > RELEASE_OVERLAP:
            return await self._fail(claim, error)
        text = reason(error)
        logger.warning("job is another release's", job_id=str(claim.id), error=text)
        # By chance, or the same workers are handed the same jobs in the same order each time.
        wait = random.uniform(0, claim.age.total_seconds() / 5)  # noqa: S311 (no secret)
        delay = max(self._settings.jobs_backoff, wait)
        write = partial(store.postpone, claimed=claim, error=text, delay=delay)
        return await self._record_outcome(write, "postponed")

    async def _fail(self, claim: Claim, error: Exception) -> str:
        """Queue the job again, later, or bury it when it was tried often enough."""
        logger.warning("job raised", job=claim.name, job_id=str(claim.id), exc_info=error)
        text = reason(error)
        if claim.attempts > self._retries(claim.name):
            return await self._record_outcome(
                partial(store.mark_dead, claimed=claim, error=text), "dead"
            )
        delay = backoff(
            claim.attempts, self._settings.jobs_backoff, self._settings.jobs_backoff_max
        )
        write = partial(store.retry, claimed=claim, error=text, delay=delay)
        return await self._record_outcome(write, "failed")

    def _retries(self, name: str) -> int:
        try:
            return registry.get_definition(name).retries
        except LookupError:
            return registry.RETRIES

    async def _record_outcome(
        self, write: Callable[[AsyncSession], Awaitable[bool]], outcome: str
    ) -> str:
        """Write down how the job ended, through a short outage too: it should not run again."""
        for pause in (*WRITE_AGAIN, None):
            try:
                async with self._app.state.db.transaction() as session:
                    return outcome if await write(session) else "lost"
            except Exception as error:
                if _is_of_the_data(error):
                    raise Unstorable("Its result can't be stored as JSON in Postgres.") from error
                logger.warning("job's end not written", outcome=outcome, error=reason(error))
                if pause is None:
                    return "lost"
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")


def _is_of_the_data(error: Exception) -> bool:
    """Tell whether Postgres refused what it was given: data exception, or program limit exceeded.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return str(getattr(getattr(error, "orig", None), "sqlstate", "")).startswith(("22", "54"))
