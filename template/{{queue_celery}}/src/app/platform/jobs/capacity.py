"""Concurrency of a worker and the connections it needs."""

from app.platform.base import cpus
from app.platform.settings import PlatformSettings

CONNECTIONS_PER_CHILD = 5  # three for the job itself, one for its lease, one for the job store


def concurrency(settings: PlatformSettings) -> int:
    """Maximum number of concurrent jobs of a worker, each in a child process."""
    return settings.worker_concurrency or cpus.available_cpus()


def worker_connections(settings: PlatformSettings) -> int:
    """Maximum connections to Postgres of a worker."""
    return concurrency(settings) * CONNECTIONS_PER_CHILD
