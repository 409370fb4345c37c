"""Settings of the API keys."""

from pydantic import Field
from pydantic_settings import BaseSettings


class AuthSettings(BaseSettings):
    """What new keys look like, and how long they are good for."""

    api_key_prefix: str = Field(
        "key",
        pattern=r"^[a-z][a-z0-9]{1,15}$",
        description="How new keys begin, so that a scan for leaked secrets finds them",
    )
    api_key_days: int = Field(
        90, ge=1, le=366, description="Days that a key is good for, unless it is made with others"
    )
