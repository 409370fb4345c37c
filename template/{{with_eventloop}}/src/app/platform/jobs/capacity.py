"""How much a worker does at once, and what that takes."""

from app.platform.settings import PlatformSettings

CONCURRENCY = 10  # jobs by default: those that wait cost next to nothing


def concurrency(settings: PlatformSettings) -> int:
    """Return how many jobs a worker runs at once."""
    return settings.worker_concurrency or CONCURRENCY


def worker_connections(settings: PlatformSettings) -> int:
    """Return how many connections to Postgres a worker may open.

    Two for each job: it may read while its transaction is open. Two for leases and the ledger.
    """
    return 2 * concurrency(settings) + 2
