"""Settings of tracing: none, since nothing is traced."""

from pydantic_settings import BaseSettings


class TracingSettings(BaseSettings):
    """Nothing to set."""
