"""Settings of the background jobs."""

from typing import ClassVar

from pydantic import Field

from app.platform.settings.queue import QueueSettings
from app.platform.settings.timeouts import Pairs


class JobsSettings(QueueSettings):
    """Concurrency, retries and retention of background jobs."""

    renamed: ClassVar = {
        "worker_grace": "worker_shutdown_timeout",
        "jobs_keep_days": "jobs_retention_days",
        "jobs_keep_dead_days": "jobs_dead_retention_days",
    }
    # The renewal of a lease is a statement.
    shorter_than: ClassVar[Pairs] = (
        ("db_pool_timeout", "jobs_lease"),
        ("db_statement_timeout", "jobs_lease"),
    )

    worker_concurrency: int | None = Field(
        None, ge=1, le=1000, description="Concurrent jobs of a worker; unset: the queue's default"
    )
    worker_scheduler: bool = Field(
        True, description="Whether a worker also runs the scheduler; otherwise, run `app scheduler`"
    )
    worker_shutdown_timeout: float = Field(
        25, ge=0, le=3600, description="Seconds for running jobs to finish after SIGTERM"
    )
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the worker's /metrics; unset: none"
    )
    jobs_lease: float = Field(
        60,
        ge=1,
        le=86_400,
        description="Seconds until the job of a worker that died runs on another one",
    )
    jobs_backoff: float = Field(
        5,
        gt=0,
        le=86_400,
        description="Maximum seconds until the first retry; doubles with each retry",
    )
    jobs_backoff_max: float = Field(
        600, gt=0, le=604_800, description="Maximum seconds until any retry"
    )
    jobs_retention_days: float = Field(
        7, gt=0, le=3650, description="Days that succeeded jobs are kept"
    )
    jobs_dead_retention_days: float = Field(
        30, gt=0, le=3650, description="Days that dead jobs are kept"
    )
