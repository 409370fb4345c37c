"""The provider's keys, as a process knows them: asked for now and then, kept while it is away.

A request looks for new keys when the known ones are no longer fresh, or when a token names another
one. However many want to look, one does, and then none for a while: so tokens with invented keys
can't be turned against the provider. While it is away, tokens of known keys are good as ever.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

import jwt

from app.auth.discovery import Metadata, ProviderError, Published
from app.platform.base.errors import Unavailable

logger = logging.getLogger(__name__)

FRESH = 300.0  # seconds; so long a key that the provider has withdrawn is accepted at most
COOL_DOWN = 10.0  # seconds between two looks; so long may a key that appears unannounced wait


class Keys:
    """What the provider published, of this process. Times are those of ``time.monotonic``."""

    def __init__(self, fetch: Callable[[], Awaitable[Published]], max_age: float) -> None:
        self._fetch = fetch
        self._max_age = max_age
        self._looking: asyncio.Task[None] | None = None
        self.published: Published | None = None
        self.fetched_at = self.looked_at = -math.inf
        self.error: ProviderError | None = None

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """Return a key; ``None`` if the provider has no such one.

        Raises ``Unavailable`` if nothing is known that may still be used.
        """
        name = (key_id, algorithm)
        known = self._usable()
        if known is None or name not in known.keys or self._age() > FRESH:
            await self._look(wanted=known is None or name not in known.keys)
        return self._known().keys.get(name)

    async def metadata(self) -> Metadata:
        """Return the provider's configuration; raise ``Unavailable`` if it is not known."""
        await self.refresh()
        return self._known().metadata

    async def refresh(self) -> None:
        """Ask the provider if what is known is no longer fresh."""
        if self._age() > FRESH:
            await self._look(wanted=self._usable() is None)

    async def ping(self) -> None:
        """Raise ``ProviderError`` if the provider could not be used when it was last asked."""
        await self.refresh()
        if self.error:
            raise self.error

    async def close(self) -> None:
        """Stop asking."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _age(self) -> float:
        return time.monotonic() - self.fetched_at

    def _usable(self) -> Published | None:
        return self.published if self._age() <= self._max_age else None

    def _known(self) -> Published:
        if known := self._usable():
            return known
        wait = self.looked_at + COOL_DOWN - time.monotonic()
        raise Unavailable(
            "The identity provider can't be reached.", retry_after=max(1, math.ceil(wait))
        )

    async def _look(self, *, wanted: bool) -> None:
        """Ask, unless that was done just now. When another one asks, wait only if ``wanted``."""
        if self._looking is None and time.monotonic() >= self.looked_at + COOL_DOWN:
            # In a context of its own: it is for all, not for the request that happens to be first.
            self._looking = asyncio.create_task(self._ask(), context=Context())
        elif not wanted:
            return
        if self._looking:
            await asyncio.shield(self._looking)

    async def _ask(self) -> None:
        try:
            self.published = await self._fetch()
            self.fetched_at = time.monotonic()
            self.error = None
        except ProviderError as error:
            self.error = error
            logger.warning("the identity provider can't be used: %s", error)
        finally:
            self.looked_at = time.monotonic()
            self._looking = None
