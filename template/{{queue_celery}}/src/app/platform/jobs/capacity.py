"""Concurrency of a worker and the connections it needs."""

from app.platform.base import cpus
from app.platform.settings import PlatformSettings

POOL_SIZE_OF_CHILD = 4  # three for the job itself, one for the job store
CONNECTIONS_PER_CHILD = POOL_SIZE_OF_CHILD + 1  # and the one of the watchdog, for its lease


def concurrency(settings: PlatformSettings) -> int:
    """Maximum number of concurrent jobs of a worker, each in a child process."""
    return settings.worker_concurrency or cpus.available_cpus()


def worker_connections(settings: PlatformSettings) -> int:
    """Maximum connections to Postgres of a worker, of which one is its scheduler's."""
    return concurrency(settings) * CONNECTIONS_PER_CHILD + int(settings.worker_scheduler)
