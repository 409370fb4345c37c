"""A scheduled job that deletes expired idempotency keys, in batches."""

from fastapi import FastAPI

from app.platform.data import idempotency_keys
from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import job
from app.platform.settings import PlatformSettings

BATCH_SIZE = 1000  # keys that one transaction deletes


@job(name="idempotency.sweep", cron="7 * * * *", retries=0, timeout=600)
async def sweep(context: JobContext) -> int:
    """Delete all expired keys; return how many. Safe to run twice, and at once."""
    total, deleted = 0, BATCH_SIZE
    while deleted == BATCH_SIZE:
        async with context.transaction() as session:
            deleted = await idempotency_keys.sweep(session, BATCH_SIZE)
        total += deleted
    return total


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Nothing to set up: the import has registered the job."""
