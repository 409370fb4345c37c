"""Settings of the authentication: there is none."""

from pydantic_settings import BaseSettings


class AuthSettings(BaseSettings):
    """Nobody is asked who they are."""
