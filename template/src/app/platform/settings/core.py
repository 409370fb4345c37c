"""Settings of every process: the environment and the secret key."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

Environment = Literal["development", "test", "staging", "production"]
# Environments that strangers can reach: staging behaves as production does.
DEPLOYED = ("staging", "production")

EXAMPLE_SECRETS = ("change-me", "changeme", "secret", "example", "password", "insecure")


class CoreSettings(BaseSettings):
    """The environment and the secret key."""

    environment: Environment = Field(
        "production",
        description="development, test, staging or production; staging behaves as production does",
    )
    secret_key: SecretStr = Field(
        description="Key that signs tokens and cursors; 32 random characters or more"
    )

    @property
    def is_deployed(self) -> bool:
        """Whether this is staging or production."""
        return self.environment in DEPLOYED

    @field_validator("secret_key")
    @classmethod
    def _long_and_random(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if len(secret) < 32 or len(set(secret)) < 10:
            raise ValueError(
                "must be 32 random characters or more; generate it with `openssl rand -hex 32`"
            )
        if any(word in secret.lower() for word in EXAMPLE_SECRETS):
            raise ValueError("is an example value; generate one with `openssl rand -hex 32`")
        return value
