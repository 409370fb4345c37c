"""Concurrency of a worker and the connections it needs."""

from app.platform.jobs.receiving import RECEIVER_CONNECTIONS
from app.platform.settings import PlatformSettings

DEFAULT_CONCURRENCY = 10  # jobs; a job that waits for I/O costs next to nothing


def concurrency(settings: PlatformSettings) -> int:
    """Maximum number of concurrent jobs of a worker."""
    return settings.worker_concurrency or DEFAULT_CONCURRENCY


def worker_connections(settings: PlatformSettings) -> int:
    """Maximum connections to Postgres of a worker.

    Two per job, which may read while its transaction is open, one for the job store, those of the
    watchdog and the scheduler, and those that receive jobs.
    """
    return pool_size(settings) + 1 + int(settings.worker_scheduler) + RECEIVER_CONNECTIONS


def pool_size(settings: PlatformSettings) -> int:
    """Size of a worker's connection pool, without the connections outside of it."""
    return 2 * concurrency(settings) + 1
