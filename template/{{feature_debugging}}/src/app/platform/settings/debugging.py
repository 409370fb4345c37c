"""Settings of the inspection of running processes."""

from pydantic import Field
from pydantic_settings import BaseSettings


class DebuggingSettings(BaseSettings):
    """Access of `app debug` to running processes."""

    debug_socket: bool = Field(
        True, description="Whether `app debug` of the same user can inspect running processes"
    )
