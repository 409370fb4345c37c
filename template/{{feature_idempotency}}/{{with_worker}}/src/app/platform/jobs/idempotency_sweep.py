"""A scheduled job that deletes expired idempotency keys, in batches."""

import time

from fastapi import FastAPI

from app.platform.data import idempotency_keys
from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import job
from app.platform.settings import PlatformSettings

BATCH_SIZE = 1000  # keys that one transaction deletes
TIMEOUT = 30  # seconds; a worker that stops waits for its jobs, but not for minutes


@job(name="idempotency.sweep", cron="7 * * * *", retries=0, timeout=TIMEOUT)
async def sweep(context: JobContext) -> int:
    """Delete expired keys, all or as many as it can in time; return how many.

    Safe to run twice, and at once. The next run continues.
    """
    total, deleted = 0, BATCH_SIZE
    end = time.monotonic() + TIMEOUT / 2
    while deleted == BATCH_SIZE and time.monotonic() < end:
        async with context.transaction() as session:
            deleted = await idempotency_keys.sweep(session, BATCH_SIZE)
        total += deleted
    return total


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Nothing to set up: the import has registered the job."""
