"""Settings of the queue without a broker."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class QueueSettings(BaseSettings):
    """Polling for jobs whose notification was lost."""

    renamed: ClassVar = {"jobs_poll": "jobs_poll_interval"}

    jobs_poll_interval: float = Field(
        1,
        gt=0,
        le=60,
        description="Seconds between steps of the scheduler, and until an idle worker looks for "
        "delayed jobs, retries and, through PgBouncer, new jobs",
    )
