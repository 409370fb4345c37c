"""A cache of callers who were just authenticated, so that their reads skip the lookup.

Off by default. With ``AUTH_CACHE_MAX_AGE``, a credential that has been revoked reads for as long as
that, so only GET and HEAD use the cache: no other request is made with a revoked credential.
"""

import hashlib
import time

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from app.platform.auth.identity import User
from app.platform.settings import PlatformSettings

MAX_CALLERS = 10_000  # about 6 MB; more callers than that are looked up more often


class AuthCache:
    """Callers by the hash of their credential, each for ``max_age`` seconds since its lookup."""

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._callers: dict[bytes, tuple[float, User]] = {}  # the oldest is the first

    def get(self, token: str) -> User | None:
        """The caller of a credential; ``None`` if it has to be looked up."""
        found = self._callers.get(_hash(token))
        return found[1] if found and found[0] > time.monotonic() else None

    def add(self, token: str, user: User, looked_up: float) -> None:
        """Store the caller of a valid credential. ``looked_up``: monotonic, before the lookup."""
        key = _hash(token)
        self._callers.pop(key, None)  # so that it becomes the last
        if len(self._callers) >= MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        self._callers[key] = (looked_up + self._max_age, user)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def cache_of(connection: HTTPConnection) -> AuthCache | None:
    """The cache for a request that only reads; ``None`` for any other, and if it is off."""
    cache: AuthCache | None = connection.app.state.auth_cache
    return cache if cache and connection.scope.get("method") in ("GET", "HEAD") else None


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    max_age = settings.auth_cache_max_age
    app.state.auth_cache = AuthCache(max_age) if max_age else None
