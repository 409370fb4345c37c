"""Settings of accounts: what a password costs, who may try how often, how long a login lasts."""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.rates import Rate, RateSetting

# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html, "Argon2id"
LEAST_MEMORY = 19_456
LEAST_TIME = 2


def _memory(given: dict[str, Any]) -> int:
    """RFC 9106, second recommendation; next to nothing in tests, which log in all the time."""
    return 32 if given.get("environment") == "test" else 65_536


class AccountSettings(BaseSettings):
    """Who may log in how often, and for how long it lasts."""

    argon2_memory: int = Field(
        default_factory=_memory, ge=32, description="KiB of memory that hashing a password takes"
    )
    argon2_time: int = Field(3, ge=1, description="Passes over that memory")
    argon2_lanes: int = Field(4, ge=1, le=4, description="Threads that one hash is made with")
    argon2_concurrency: int = Field(
        2, ge=1, description="Passwords that a process hashes at once; others wait their turn"
    )

    registration_open: bool = Field(True, description="May anyone make an account?")
    registration_limit: RateSetting = Field(
        Rate(100, 3600), description="Accounts that one client may make"
    )
    login_limit_account: RateSetting = Field(
        Rate(10, 900), description="Logins tried for one account, right ones excepted"
    )
    login_limit_client: RateSetting = Field(Rate(60, 900), description="Logins tried by one client")

    session_lifetime: int = Field(
        2_592_000, ge=60, description="Seconds until a login ends, however much it is used"
    )
    session_idle: int = Field(604_800, ge=60, description="Seconds without use until a login ends")

    @field_validator("argon2_memory", "argon2_time")
    @classmethod
    def _strong(cls, value: int, info: ValidationInfo) -> int:
        least = LEAST_MEMORY if info.field_name == "argon2_memory" else LEAST_TIME
        if info.data.get("environment") == "production" and value < least:
            raise ValueError(f"is too weak for production, which needs {least} or more")
        return value
