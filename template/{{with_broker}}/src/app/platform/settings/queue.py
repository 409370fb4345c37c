"""Settings of queues with a broker."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class QueueSettings(BaseSettings):
    """Messages in the broker."""

    renamed: ClassVar = {
        "jobs_poll": "jobs_poll_interval",
        "jobs_publish_again": "jobs_republish_after",
    }

    jobs_poll_interval: float = Field(
        1, gt=0, le=60, description="Seconds between steps of the scheduler"
    )
    jobs_republish_after: float = Field(
        60,
        gt=0,
        le=86_400,
        description="Seconds until a job that has not started is published again; grows with its "
        "waiting time, up to ten times",
    )
    jobs_queue_limit: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Maximum messages in the queue; further jobs wait in Postgres",
    )
