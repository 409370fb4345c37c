"""Settings of API keys."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings


class AuthSettings(BaseSettings):
    """Format and lifetime of new API keys."""

    renamed: ClassVar = {"api_key_days": "api_key_lifetime_days"}

    api_key_prefix: str = Field(
        "key",
        pattern=r"^[a-z][a-z0-9]{1,15}$",
        description="Prefix of new keys, for secret scanners",
    )
    api_key_lifetime_days: int = Field(
        90, ge=1, le=366, description="Default lifetime of new keys, in days"
    )
