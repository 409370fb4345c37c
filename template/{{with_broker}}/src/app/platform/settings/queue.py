"""Settings of queues with a broker."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class QueueSettings(BaseSettings):
    """Messages in the broker."""

    renamed: ClassVar = {"jobs_poll": "jobs_poll_interval"}

    jobs_poll_interval: float = Field(
        1,
        gt=0,
        le=60,
        description="Seconds between steps of the scheduler, which starts delayed jobs and retries",
    )
    jobs_queue_limit: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Maximum messages in the queue; each wakes a worker, which takes many jobs",
    )
