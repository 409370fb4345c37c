"""Settings of the cache of authenticated callers."""

from pydantic import Field
from pydantic_settings import BaseSettings


class AuthCacheSettings(BaseSettings):
    """How long reads do without a lookup of their credential."""

    # At most what a user waits for between two clicks: a logout must not be seen to fail.
    auth_cache_max_age: float = Field(
        0,
        ge=0,
        le=10,
        description="Seconds in which GET and HEAD accept a revoked credential that was valid"
        " before, to save its lookup; 0: none",
    )
