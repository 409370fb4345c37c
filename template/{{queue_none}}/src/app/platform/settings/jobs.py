"""Settings of the background jobs."""

from pydantic import Field
from pydantic_settings import BaseSettings


class JobsSettings(BaseSettings):
    """How jobs are tried again, and when they are forgotten."""

    jobs_backoff: float = Field(
        5, gt=0, description="Seconds, at most, until the first retry; doubled for each one after"
    )
    jobs_backoff_max: float = Field(600, gt=0, description="Seconds, at most, until any retry")
    jobs_retention_days: float = Field(7, gt=0, description="Days that a job's status is kept")
