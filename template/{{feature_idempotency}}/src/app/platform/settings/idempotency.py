"""Settings of idempotency keys."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from app.platform.settings.timeouts import Pairs


class IdempotencySettings(BaseSettings):
    """Retention of keys, and the wait of a request whose key is in use."""

    shorter_than: ClassVar[Pairs] = (("idempotency_wait", "db_statement_timeout"),)

    idempotency_ttl: float = Field(
        86_400,
        ge=60,
        le=31_536_000,
        description="Seconds that an idempotency key and its response are kept",
    )
    idempotency_wait: float = Field(
        5,
        gt=0,
        le=300,
        description="Seconds that a request waits for another one with its idempotency key, "
        "then 409; less than DB_STATEMENT_TIMEOUT",
    )
    idempotency_max_response_size: int = Field(
        65_536,
        ge=0,
        le=16_777_216,
        description="Maximum bytes of a response body that is kept; a larger one is not replayed",
    )
