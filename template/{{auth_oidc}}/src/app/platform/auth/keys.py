"""The cache of the provider's keys, one per process.

A request fetches the keys when they are stale, or when a token has an unknown key id. Concurrent
requests share one fetch, and fetches have a minimum interval, so that tokens with invented key ids
cannot be used to flood the provider. During an outage of the provider, cached keys remain in use.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

import jwt

from app.platform.auth.discovery import Metadata, ProviderData, ProviderError
from app.platform.base.errors import Unavailable
from app.platform.base.tasks import cancel

logger = logging.getLogger(__name__)

REFRESH_AFTER = 300.0  # seconds: how long a withdrawn key may remain accepted
MIN_FETCH_INTERVAL = 10.0  # seconds: how long a new key may remain unknown


class Keys:
    """The provider's metadata and keys. Times are those of ``time.monotonic``."""

    def __init__(self, fetch: Callable[[], Awaitable[ProviderData]], max_age: float) -> None:
        self._fetch = fetch
        self._max_age = max_age
        self._fetching: asyncio.Task[None] | None = None
        self.data: ProviderData | None = None
        self.fetched_at = self.attempted_at = -math.inf
        self.error: ProviderError | None = None

    async def get(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """A key; ``None`` if the provider does not have it.

        Raises ``Unavailable`` without usable keys in the cache.
        """
        name = (key_id, algorithm)
        known = self._usable()
        if known is None or name not in known.keys or self._age() > REFRESH_AFTER:
            await self._fetch_once(required=known is None or name not in known.keys)
        return self._known().keys.get(name)

    async def metadata(self) -> Metadata:
        """The provider's metadata; raises ``Unavailable`` without usable data in the cache."""
        await self.refresh()
        return self._known().metadata

    async def refresh(self) -> None:
        """Fetch the keys if they are stale."""
        if self._age() > REFRESH_AFTER:
            await self._fetch_once(required=self._usable() is None)

    async def ping(self) -> None:
        """Raise ``ProviderError`` if the last fetch failed."""
        await self.refresh()
        if self.error:
            raise self.error

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching:
            await cancel(self._fetching)

    def _age(self) -> float:
        return time.monotonic() - self.fetched_at

    def _usable(self) -> ProviderData | None:
        return self.data if self._age() <= self._max_age else None

    def _known(self) -> ProviderData:
        if known := self._usable():
            return known
        wait = self.attempted_at + MIN_FETCH_INTERVAL - time.monotonic()
        raise Unavailable(
            "The identity provider is not available.", retry_after=max(1, math.ceil(wait))
        )

    async def _fetch_once(self, *, required: bool) -> None:
        """Fetch, unless the last attempt is too recent; if ``required``, wait for the fetch."""
        if self._fetching is None and time.monotonic() >= self.attempted_at + MIN_FETCH_INTERVAL:
            # In a context of its own: all requests share it, not only the one that started it.
            self._fetching = asyncio.create_task(self._run_fetch(), context=Context())
        elif not required:
            return
        if self._fetching:
            await asyncio.shield(self._fetching)

    async def _run_fetch(self) -> None:
        try:
            self.data = await self._fetch()
            self.fetched_at = time.monotonic()
            self.error = None
        except ProviderError as error:
            self.error = error
            logger.warning("the identity provider cannot be used: %s", error)
        finally:
            self.attempted_at = time.monotonic()
            self._fetching = None
