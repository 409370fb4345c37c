"""Settings of every process: the environment and the secret keys."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.secrets import key_weakness

Environment = Literal["development", "test", "staging", "production"]
# Environments that strangers can reach: staging behaves as production does.
DEPLOYED = ("staging", "production")
GENERATE = "generate it with `openssl rand -hex 32`"


class CoreSettings(BaseSettings):
    """The environment and the secret keys."""

    environment: Environment = Field(
        "production",
        description="development, test, staging or production; staging behaves as production does",
    )
    secret_key: SecretStr = Field(
        description="Key that signs tokens and cursors; 32 random characters or more"
    )

    secret_key_fallbacks: SecretStr = Field(
        SecretStr(""),
        description="Former keys, comma-separated: they verify, but do not sign",
    )

    @property
    def is_deployed(self) -> bool:
        """Whether this is staging or production."""
        return self.environment in DEPLOYED

    @field_validator("secret_key")
    @classmethod
    def _is_random(cls, value: SecretStr) -> SecretStr:
        if reason := key_weakness(value.get_secret_value()):
            raise ValueError(f"{reason}; {GENERATE}")
        return value

    @field_validator("secret_key_fallbacks")
    @classmethod
    def _are_random(cls, value: SecretStr) -> SecretStr:
        for key in split_keys(value):
            if reason := key_weakness(key):
                raise ValueError(f"has a key that {reason}; remove it")
        return value


def split_keys(value: SecretStr) -> list[str]:
    """The keys of a comma-separated list."""
    return [key for part in value.get_secret_value().split(",") if (key := part.strip())]
