"""Settings of access tokens."""

from pydantic import Field

from app.platform.settings.accounts import AccountSettings


class AuthSettings(AccountSettings):
    """Lifetime of access tokens; a refresh extends the session's idle timeout."""

    access_token_lifetime: int = Field(
        600, ge=30, le=3600, description="Lifetime of an access token, in seconds"
    )
