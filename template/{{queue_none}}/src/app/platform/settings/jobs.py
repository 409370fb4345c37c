"""Settings of the background jobs."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class JobsSettings(BaseSettings):
    """Retries and retention of background jobs."""

    renamed: ClassVar = {"jobs_keep_days": "jobs_retention_days"}

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
        7, gt=0, le=3650, description="Days that a job's status is kept"
    )
