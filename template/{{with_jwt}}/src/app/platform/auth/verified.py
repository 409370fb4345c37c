"""A bounded cache of verified tokens, so that a token's signature is checked once per process.

What can change while a token is valid is not in it: sessions, accounts and revocations are looked
up by each request.
"""

import hashlib
import time
from typing import Generic, TypeVar

T = TypeVar("T")
MAX_TOKENS = 10_000  # about 5 MB; more tokens in use than that are verified more often


class VerifiedTokens(Generic[T]):
    """The results of verifications, each until its token expires, plus ``leeway`` in seconds.

    Tokens are stored as hashes, and only valid ones, so that invalid ones do not displace them.
    """

    def __init__(self, leeway: float) -> None:
        self._leeway = leeway
        self._verified: dict[bytes, tuple[float, T]] = {}

    def get(self, token: str) -> T | None:
        """The result for a token; ``None`` if it has to be verified."""
        key = _hash(token)
        expires_at, result = self._verified.get(key, (0.0, None))
        if result is not None and expires_at + self._leeway <= time.time():
            del self._verified[key]
            return None
        return result

    def add(self, token: str, expires_at: float, result: T) -> None:
        """Store the result for a valid token; ``expires_at``: seconds since the epoch."""
        if len(self._verified) >= MAX_TOKENS:
            del self._verified[next(iter(self._verified))]  # the first that was added
        self._verified[_hash(token)] = (expires_at, result)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
