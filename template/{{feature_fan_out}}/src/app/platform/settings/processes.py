"""Settings of the processes for CPU-bound work."""

from pydantic import Field
from pydantic_settings import BaseSettings


class ProcessSettings(BaseSettings):
    """The number of processes, and of calls that may wait for one."""

    process_pool_size: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Processes for CPU-bound work, per process of the API or worker; unset: one "
        "per CPU",
    )
    process_queue_limit: int = Field(
        32, ge=0, le=10_000, description="Calls that wait for one of these processes; then 503"
    )
