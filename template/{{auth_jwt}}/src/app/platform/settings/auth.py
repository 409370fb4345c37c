"""Settings of access tokens."""

from pydantic import Field

from app.platform.settings.accounts import AccountSettings


class AuthSettings(AccountSettings):
    """Lifetime of access tokens, and repeated refreshes.

    A refresh extends the session's idle timeout.
    """

    access_token_lifetime: int = Field(
        600, ge=30, le=3600, description="Lifetime of an access token, in seconds"
    )
    # At most the shortest lifetime of an access token, so that a repeated one is still valid.
    refresh_reuse_interval: int = Field(
        10,
        ge=0,
        le=30,
        description="Seconds in which a repeated refresh gets the same tokens again; 0: none",
    )
