"""Settings of the API's processes."""

from pydantic import Field
from pydantic_settings import BaseSettings


class ServerSettings(BaseSettings):
    """Processes, connections and shutdown of the API."""

    port: int = Field(8000, ge=1, le=65535, description="Port of the API")
    web_concurrency: int | None = Field(
        None, ge=1, description="API processes; unset: one per CPU that the container has"
    )
    max_replicas: int = Field(
        1, ge=1, description="Maximum replicas of the API, for the connection budget"
    )
    # Both fit, with the pools, into the 1024 files that most systems let a process open.
    max_connections: int = Field(
        800,
        ge=1,
        description="Maximum connections per process; beyond it, idle ones are closed",
    )
    max_websockets: int = Field(
        400, ge=0, description="Maximum WebSockets per process; beyond it, 503"
    )
    drain_seconds: float | None = Field(
        None,
        ge=0,
        le=15,
        description="Seconds of service after SIGTERM, for load balancers; unset: 5 in production",
    )
    thread_pool_size: int = Field(20, ge=1, description="Threads for synchronous code")
