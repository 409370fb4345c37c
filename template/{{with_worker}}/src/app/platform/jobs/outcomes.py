"""Outcomes of attempts at jobs: how each one ended, recorded in the job store."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

from app.platform.data.database import Database
from app.platform.jobs import registry, store
from app.platform.jobs.attempt import backoff, error_summary
from app.platform.jobs.batches import Batches
from app.platform.jobs.store import Claim
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# During a deployment, each release receives jobs that only the other one can run.
RELEASE_OVERLAP = timedelta(hours=1)
RECORD_RETRY_DELAYS = (0.2, 1.0, 3.0, 10.0)  # seconds

logger = get_logger(__name__)


class UnstorableResult(Exception):
    """Postgres cannot store the job's result."""


class Outcomes:
    """Records outcomes through ``database``; each method returns the outcome for log and metrics.

    ``abandoned`` means that nothing was recorded: the lease was lost, or Postgres is unavailable.
    """

    def __init__(self, database: Database, settings: PlatformSettings) -> None:
        self._database = database
        self._settings = settings
        self._results = Batches(partial(store.succeed, database))

    async def succeed(self, claim: Claim, result: Any) -> str:
        """Store the result."""
        try:
            return await self._record(partial(self._succeed, claim, result), "succeeded")
        except UnstorableResult as error:
            return await self.fail(claim, error)

    async def release(self, claim: Claim) -> str:
        """Requeue the job at once, without counting this attempt."""
        return await self._record(partial(store.release, self._database, claim), "released")

    async def postpone(self, claim: Claim, error: registry.UnknownJobVersion) -> str:
        """Leave the job to the other release, or fail it once ``RELEASE_OVERLAP`` has passed."""
        if claim.age > RELEASE_OVERLAP:
            return await self.fail(claim, error)
        summary = error_summary(error)
        logger.warning("job belongs to another release", job_id=str(claim.id), error=summary)
        # Random, so that the same worker does not receive the same jobs every time.
        jitter = random.uniform(0, claim.age.total_seconds() / 5)  # noqa: S311 (not a secret)
        delay = max(self._settings.jobs_backoff, jitter)
        record = partial(store.postpone, self._database, claim, error=summary, delay=delay)
        return await self._record(record, "postponed")

    async def fail(self, claim: Claim, error: Exception) -> str:
        """Requeue the job with a delay, or mark it as dead if it has no retries left."""
        logger.warning("job raised", job=claim.name, job_id=str(claim.id), exc_info=error)
        summary = error_summary(error)
        if claim.attempts > _retries(claim.name):
            record = partial(store.mark_dead, self._database, claim, error=summary)
            return await self._record(record, "dead")
        delay = backoff(
            claim.attempts, self._settings.jobs_backoff, self._settings.jobs_backoff_max
        )
        record = partial(store.retry, self._database, claim, error=summary, delay=delay)
        return await self._record(record, "failed")

    async def _succeed(self, claim: Claim, result: Any) -> bool:
        done = (claim, json.dumps(result))
        try:
            return await self._results(done)
        except Exception as error:
            if not _is_data_exception(error):
                raise
            # Perhaps the result of another job, which has not been stored either.
            (stored,) = await store.succeed(self._database, [done])
            return stored

    async def _record(self, record: Callable[[], Awaitable[bool]], outcome: str) -> str:
        """Record how the job ended; retries through short outages, so that it is not run again."""
        for delay in (*RECORD_RETRY_DELAYS, None):
            try:
                return outcome if await record() else "abandoned"
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


def _retries(name: str) -> int:
    try:
        return registry.get_definition(name).retries
    except LookupError:
        return registry.DEFAULT_RETRIES


def _is_data_exception(error: Exception) -> bool:
    """Whether Postgres rejected the data itself: data exception or program limit exceeded.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return str(getattr(getattr(error, "orig", None), "sqlstate", "")).startswith(("22", "54"))
