"""Settings of the cache of authenticated callers."""

from pydantic import Field
from pydantic_settings import BaseSettings


class AuthCacheSettings(BaseSettings):
    """How long reads may skip the lookup of their credential."""

    # At most what a user waits for between two clicks: a logout must not be seen to fail.
    auth_cache_max_age: float = Field(
        0,
        ge=0,
        le=10,
        description="Seconds for which GET and HEAD skip the lookup of a credential, and so accept"
        " it after its revocation; 0: off",
    )
