"""How much a worker does at once, and what that takes."""

from app.platform.base import cpus
from app.platform.settings import PlatformSettings

# Of a child, next to the job's own three: one for the lease and one for the ledger.
CONNECTIONS_PER_CHILD = 5


def concurrency(settings: PlatformSettings) -> int:
    """Return how many jobs a worker runs at once, each in a child process."""
    return settings.worker_concurrency or cpus.available_cpus()


def worker_connections(settings: PlatformSettings) -> int:
    """Return how many connections to Postgres a worker may open."""
    return concurrency(settings) * CONNECTIONS_PER_CHILD
