"""Connection pools of the background processes."""

from app.platform.jobs import capacity
from app.platform.settings import PlatformSettings

SCHEDULER_CONNECTIONS = 2


def background_connections(settings: PlatformSettings) -> dict[str, int]:
    """Maximum connections to Postgres of one worker and one scheduler, by name."""
    worker = capacity.worker_connections(settings)
    return {"a worker (WORKER_CONCURRENCY)": worker, "the scheduler": SCHEDULER_CONNECTIONS}


def with_pool_size(settings: PlatformSettings, size: int) -> PlatformSettings:
    """Settings with a pool of at most ``size`` connections."""
    return settings.model_copy(update={"db_pool_size": size, "db_max_overflow": 0})
