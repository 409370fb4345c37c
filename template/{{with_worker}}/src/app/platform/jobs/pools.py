"""Connection pools of the background processes."""

from app.platform.jobs import capacity
from app.platform.settings import PlatformSettings

SCHEDULER_CONNECTIONS = 2  # of a process of its own; within a worker, it has one


def background_connections(settings: PlatformSettings) -> dict[str, int]:
    """Maximum connections to Postgres of one background process of each kind, by name."""
    worker = {"a worker (WORKER_CONCURRENCY)": capacity.worker_connections(settings)}
    alone = {} if settings.worker_scheduler else {"the scheduler": SCHEDULER_CONNECTIONS}
    return worker | alone


def with_pool_size(settings: PlatformSettings, size: int) -> PlatformSettings:
    """Settings with a pool of at most ``size`` connections."""
    return settings.model_copy(update={"db_pool_size": size, "db_max_overflow": 0})
