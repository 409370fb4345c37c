"""Settings of authentication: none."""

from pydantic_settings import BaseSettings


class AuthSettings(BaseSettings):
    """No settings: callers are not authenticated."""
