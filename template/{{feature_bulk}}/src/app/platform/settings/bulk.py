"""Settings of exports."""

from pydantic import Field
from pydantic_settings import BaseSettings


class BulkSettings(BaseSettings):
    """Limits of exports, each of which holds a database connection while it is sent."""

    export_timeout: float = Field(
        300, gt=0, le=86_400, description="Seconds until an export that is still being sent fails"
    )
    export_limit: int = Field(
        2,
        ge=1,
        le=1000,
        description="Exports that a process sends at once; fewer than DB_POOL_SIZE",
    )
