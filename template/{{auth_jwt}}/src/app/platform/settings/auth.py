"""Settings of the tokens."""

from pydantic import Field

from app.platform.settings.accounts import AccountSettings


class AuthSettings(AccountSettings):
    """How long a token is good for; refreshing moves the session's idle time-out on."""

    access_token_lifetime: int = Field(
        600, ge=30, le=3600, description="Seconds that an access token is good for"
    )
