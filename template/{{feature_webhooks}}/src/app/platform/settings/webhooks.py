"""Settings of received webhooks."""

import base64
import binascii
import re

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

MIN_KEY_BYTES = 16  # Standard Webhooks recommends 24 to 64; some senders give shorter ones
PREFIX = "whsec_"
SOURCE = re.compile(r"[a-z][a-z0-9_+.-]*")


def webhook_key(secret: str) -> bytes:
    """The key of a secret: what follows ``whsec_`` in base64, and other text as it is."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    return base64.b64decode(secret.removeprefix(PREFIX) + "==", validate=False)


def webhook_keys(secrets: str) -> dict[str, list[bytes]]:
    """The keys of each source, from ``source:secret`` pairs; raises ``ValueError``."""
    keys: dict[str, list[bytes]] = {}
    for pair in filter(None, (part.strip() for part in secrets.split(","))):
        source, colon, secret = pair.partition(":")
        if not colon or not SOURCE.fullmatch(source):
            raise ValueError("write it as source:secret, such as billing:whsec_..., billing:...")
        try:
            key = webhook_key(secret)
        except binascii.Error:
            raise ValueError(f"the secret of {source} is not base64 after {PREFIX}") from None
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a secret of {source} is shorter than {MIN_KEY_BYTES} bytes")
        keys.setdefault(source, []).append(key)
    return keys


class WebhookSettings(BaseSettings):
    """Secrets of the senders, and the limits of their messages."""

    webhook_secrets: SecretStr = Field(
        SecretStr(""),
        description="Secrets of webhooks that are received, as source:secret, comma-separated; "
        "several of one source while they are rotated",
    )
    webhook_max_size: int = Field(
        262_144, ge=1, le=16_777_216, description="Maximum bytes of a webhook that is received"
    )
    webhook_id_retention: int = Field(
        604_800,
        ge=3600,
        le=31_536_000,
        description="Seconds that the ids of received webhooks are kept: one that is repeated "
        "within them takes effect once",
    )

    @field_validator("webhook_secrets")
    @classmethod
    def _webhook_secrets_are_pairs(cls, value: SecretStr) -> SecretStr:
        webhook_keys(value.get_secret_value())
        return value
