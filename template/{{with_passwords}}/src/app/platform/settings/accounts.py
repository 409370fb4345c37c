"""Settings of accounts: password hashing, rate limits of logins, session lifetimes."""

from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.core import DEPLOYED
from app.platform.settings.rates import Rate, RateSetting

# Minimum costs of Argon2id in production.
# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html
MIN_MEMORY_COST = 19_456
MIN_TIME_COST = 2


def _default_memory_cost(data: dict[str, Any]) -> int:
    """RFC 9106's second recommended option; in tests, the minimum that Argon2 accepts."""
    return 32 if data.get("environment") == "test" else 65_536


def _default_parallelism(data: dict[str, Any]) -> int:
    """RFC 9106's; in tests, one thread: starting four takes longer than their work."""
    return 1 if data.get("environment") == "test" else 4


class AccountSettings(BaseSettings):
    """Costs of password hashing, rate limits of logins, and session lifetimes."""

    renamed: ClassVar = {
        "argon2_memory": "argon2_memory_cost",
        "argon2_time": "argon2_time_cost",
        "argon2_lanes": "argon2_parallelism",
        "session_idle": "session_idle_timeout",
    }

    argon2_memory_cost: int = Field(
        default_factory=_default_memory_cost,
        ge=32,
        le=4_194_304,
        description="Memory per password hash, in KiB; unset: 65536",
    )
    argon2_time_cost: int = Field(
        3, ge=1, le=100, description="Passes over the memory per password hash"
    )
    argon2_parallelism: int = Field(
        default_factory=_default_parallelism,
        ge=1,
        le=4,
        description="Threads per password hash; unset: 4",
    )
    argon2_concurrency: int = Field(
        2, ge=1, le=64, description="Password hashes computed at the same time by a process"
    )

    registration_open: bool = Field(True, description="Whether anyone may create an account")
    registration_limit: RateSetting = Field(
        Rate(100, 3600), description="Registrations per client, such as 100/hour"
    )
    login_limit_client: RateSetting = Field(
        Rate(60, 900), description="Login attempts per client, such as 60/15 minutes"
    )
    login_limit_account_client: RateSetting = Field(
        Rate(10, 3600), description="Failed logins per account and client, such as 10/hour"
    )
    # A burst and the rate after it: at most 100 in any hour (OWASP ASVS 4.0.3, 2.2.1).
    login_limit_account: RateSetting = Field(
        Rate(50, 3600),
        description="Login attempts per account from unknown clients, such as 50/hour",
    )

    mail_limit_client: RateSetting = Field(
        Rate(20, 3600), description="Mails to owners of accounts that a client asks for"
    )
    mail_limit_address: RateSetting = Field(
        Rate(5, 3600),
        description="Mails to one address that clients unknown to its account ask for",
    )
    reauthentication_limit: RateSetting = Field(
        Rate(10, 3600), description="Wrong passwords per account in requests to change it"
    )
    email_verification_lifetime: int = Field(
        86_400, ge=60, le=2_592_000, description="Seconds that a link to confirm an address works"
    )
    password_reset_lifetime: int = Field(
        1_800, ge=60, le=86_400, description="Seconds that a link to reset a password works"
    )

    login_notices: bool = Field(
        True, description="Whether owners get an e-mail about a login from a new client"
    )

    session_lifetime: int = Field(
        2_592_000,
        ge=60,
        le=315_360_000,
        description="Seconds until a session ends, even if it is in use",
    )
    session_idle_timeout: int = Field(
        604_800, ge=60, le=315_360_000, description="Seconds without use until a session ends"
    )

    @field_validator("argon2_memory_cost", "argon2_time_cost")
    @classmethod
    def _strong(cls, value: int, info: ValidationInfo) -> int:
        minimum = MIN_MEMORY_COST if info.field_name == "argon2_memory_cost" else MIN_TIME_COST
        if info.data.get("environment") in DEPLOYED and value < minimum:
            raise ValueError(f"is too weak for production, which needs {minimum} or more")
        return value
