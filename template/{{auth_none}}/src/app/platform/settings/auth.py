"""Settings of authentication: none."""

from pydantic import field_validator
from pydantic_settings import BaseSettings


class AuthSettings(BaseSettings):
    """No settings: callers are not authenticated."""

    @field_validator("docs", check_fields=False)
    @classmethod
    def _needs_no_admin(cls, value: str | None) -> str | None:
        if value == "admin":
            raise ValueError(
                "admin needs authenticated callers, which this service has none of: use off, or"
                " open if the proxy in front of it controls access"
            )
        return value
