"""Settings of looking inside running processes."""

from pydantic import Field
from pydantic_settings import BaseSettings


class DebuggingSettings(BaseSettings):
    """Whether processes can be looked into."""

    debug_socket: bool = Field(
        True, description="Whether `app debug` of the same user can look inside running processes"
    )
