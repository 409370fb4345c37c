"""How many connections to Postgres the processes beside the API may open."""

from app.platform.jobs import capacity
from app.platform.settings import PlatformSettings

SCHEDULER = 2


def background_connections(settings: PlatformSettings) -> dict[str, int]:
    """Return, for one process of each kind, how many connections it may open."""
    worker = capacity.worker_connections(settings)
    return {"a worker (WORKER_CONCURRENCY)": worker, "the scheduler": SCHEDULER}


def with_pool_size(settings: PlatformSettings, size: int) -> PlatformSettings:
    """Return the settings of a process whose pool has ``size`` connections, opened when needed."""
    return settings.model_copy(update={"db_pool_size": size, "db_max_overflow": 0})
