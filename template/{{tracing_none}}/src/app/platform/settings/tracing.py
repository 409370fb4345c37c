"""Settings of tracing: none."""

from pydantic_settings import BaseSettings


class TracingSettings(BaseSettings):
    """No settings."""
