"""Settings of the background jobs."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class JobsSettings(BaseSettings):
    """Concurrency, retries and retention of background jobs."""

    renamed: ClassVar = {
        "worker_grace": "worker_shutdown_timeout",
        "jobs_poll": "jobs_poll_interval",
        "jobs_publish_again": "jobs_republish_after",
        "jobs_keep_days": "jobs_retention_days",
        "jobs_keep_dead_days": "jobs_dead_retention_days",
    }

    worker_concurrency: int | None = Field(
        None, ge=1, description="Jobs that a worker runs at once; unset: what suits the queue"
    )
    worker_shutdown_timeout: float = Field(
        25, ge=0, description="Seconds that running jobs may still take after SIGTERM"
    )
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the worker's /metrics; unset: none"
    )
    jobs_lease: float = Field(
        60, ge=1, description="Seconds after which a job whose worker is gone runs elsewhere"
    )
    jobs_backoff: float = Field(
        5, gt=0, description="Seconds, at most, until the first retry; doubled for each one after"
    )
    jobs_backoff_max: float = Field(600, gt=0, description="Seconds, at most, until any retry")
    jobs_poll_interval: float = Field(
        1, gt=0, description="Seconds between two looks of the scheduler"
    )
    jobs_republish_after: float = Field(
        60,
        gt=0,
        description="Seconds after which a job that nobody started is published again; for one "
        "that has waited for longer it is as long again, up to ten times this",
    )
    jobs_queue_limit: int = Field(
        1000, ge=1, description="Jobs in the queue from which the scheduler holds back more"
    )
    jobs_retention_days: float = Field(7, gt=0, description="Days until a result is forgotten")
    jobs_dead_retention_days: float = Field(
        30, gt=0, description="Days until a dead job is forgotten"
    )
