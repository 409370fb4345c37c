"""Passwords: rules, and Argon2 hashing off the event loop."""

from typing import Annotated

from anyio import CapacityLimiter, to_thread
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import AfterValidator, Field, SecretStr

from app.platform.auth.common_passwords import is_common
from app.platform.base.errors import BadRequest
from app.platform.http.schemas import ENCODABLE, SecretLength
from app.platform.settings import PlatformSettings


def _storable(password: SecretStr) -> SecretStr:
    if "\0" in password.get_secret_value():
        raise ValueError("must not contain NUL characters")
    return password


class CommonPassword(BadRequest):
    """A new password is a common one."""

    code = "common_password"

    def __init__(self) -> None:
        super().__init__("This password is too common; choose another.")


# Length and a list of breached ones instead of composition rules (NIST SP 800-63B). The upper bound
# keeps hashing cheap.
NewPassword = Annotated[
    SecretStr,
    Field(json_schema_extra={"pattern": r"^[^\x00]*$"}),
    SecretLength(12, 256),
    ENCODABLE,
    AfterValidator(_storable),
]
GivenPassword = Annotated[SecretStr, SecretLength(1, 256), ENCODABLE]


class Passwords:
    """Hashes and verifies with bounded concurrency: each takes memory and CPU time."""

    def __init__(self, settings: PlatformSettings) -> None:
        argon2 = Argon2Hasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_cost,
            parallelism=settings.argon2_parallelism,
        )
        self._hasher = PasswordHash((argon2,))
        self._limiter = CapacityLimiter(settings.argon2_concurrency)

    async def hash(self, password: SecretStr) -> str:
        plain = password.get_secret_value()
        return await to_thread.run_sync(self._hasher.hash, plain, limiter=self._limiter)

    async def hash_new(self, password: SecretStr) -> str:
        """The hash of a new password; raises ``CommonPassword``."""
        if is_common(password.get_secret_value()):
            raise CommonPassword
        return await self.hash(password)

    async def verify(self, password: SecretStr, known: str | None) -> tuple[bool, str | None]:
        """Whether the password is correct, and a new hash to store if the costs have changed.

        Without a ``known`` hash (an unknown account) it does the same work, so that the response
        time does not reveal who has an account.
        """
        if known is None:
            await self.hash(password)
            return False, None
        plain = password.get_secret_value()
        verify = self._hasher.verify_and_update
        return await to_thread.run_sync(verify, plain, known, limiter=self._limiter)
