"""Settings of the server-side cache."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from app.platform.settings.timeouts import Pairs


class CacheSettings(BaseSettings):
    """Time-outs and limits of the cache in Redis."""

    shorter_than: ClassVar[Pairs] = (("cache_timeout", "request_timeout"),)

    cache_timeout: float = Field(
        0.25,
        gt=0,
        le=60,
        description="Seconds to wait for Redis when reading the cache; then the value is loaded",
    )
    cache_max_loads: int = Field(
        16, ge=1, le=10_000, description="Concurrent loads of cached values per process"
    )
    cache_local_entries: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Maximum values that a process keeps in its own memory",
    )
    cache_warm_timeout: float = Field(
        2, ge=0, le=60, description="Maximum seconds that warming the cache delays the start"
    )
