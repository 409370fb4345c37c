"""Settings of the API server."""

from pydantic import Field
from pydantic_settings import BaseSettings


class ServerSettings(BaseSettings):
    """Processes, connections and shutdown of the API server."""

    port: int = Field(8000, ge=1, le=65535, description="Port of the API")
    web_concurrency: int | None = Field(
        None, ge=1, le=1024, description="API processes; unset: one per CPU of the container"
    )
    max_replicas: int = Field(
        1, ge=1, le=10_000, description="Maximum replicas of the API, for the connection budget"
    )
    # Both, with the pools, fit into 1024 file descriptors, the usual limit per process.
    max_connections: int = Field(
        800,
        ge=1,
        le=1_000_000,
        description="Maximum connections per process; beyond it, idle ones are closed",
    )
    max_websockets: int = Field(
        400, ge=0, le=1_000_000, description="Maximum WebSockets per process; beyond it, 503"
    )
    drain_seconds: float | None = Field(
        None,
        ge=0,
        le=15,
        description="Seconds to keep serving after SIGTERM; unset: 5 in production, else 0",
    )
    thread_pool_size: int = Field(
        20,
        ge=1,
        le=1000,
        description="Threads for synchronous routes, and as many for `asyncio.to_thread`",
    )
