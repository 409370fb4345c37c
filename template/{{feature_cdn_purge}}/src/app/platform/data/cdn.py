"""Purges of a CDN: the responses that contain what a transaction has changed.

The keys of committed changes wait in this process, and are sent in batches by one task, which tries
again while the CDN fails. So no request waits for the CDN, or fails because of it.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Annotated
from urllib.parse import quote

import httpx2
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.platform.base.components import Lifespan
from app.platform.base.tasks import cancel
from app.platform.data.database import on_commit
from app.platform.observability.logs import get_logger
from app.platform.observability.telemetry import counter, gauge
from app.platform.settings import PlatformSettings, SettingsError
from app.platform.settings.sources import ERROR_HEADER

logger = get_logger(__name__)

PURGES = counter("cdn_purges_total", "Keys by outcome: purged, lost.", ["outcome"])
ERRORS = counter("cdn_purge_errors_total", "Calls of the CDN's purge API that failed.")
PENDING = gauge("cdn_purge_keys_pending", "Keys that wait for the CDN.")

MAX_PENDING = 10_000  # keys
MAX_AGE = 3600.0  # seconds for which a key is tried; the `s_maxage` of responses bounds the rest
RETRY_INTERVALS = (1.0, 60.0)  # seconds, the first and the longest
CLOSE_TIMEOUT = 2.0  # seconds, to send what is left when the process ends
MAX_KEY = 128  # characters
SAFE = "._:/-"
PLAIN = re.compile(rf"[a-z0-9{SAFE}]{{1,{MAX_KEY}}}")


@dataclass(frozen=True)
class Provider:
    """The header of a CDN for keys, and its purge API: a POST with a JSON object of one array."""

    header: str
    separator: str
    auth_header: str
    auth_prefix: str
    member: str
    max_keys: int  # in one call


PROVIDERS = {
    "fastly": Provider("Surrogate-Key", " ", "Fastly-Key", "", "surrogate_keys", 256),
    "cloudflare": Provider("Cache-Tag", ",", "Authorization", "Bearer ", "tags", 30),
}


def to_key(text: object) -> str:
    """A key as every CDN takes it: lower case, without separators, at most 128 characters.

    The same for the same text, so that whatever names a response also purges it.
    """
    key = str(text)
    if PLAIN.fullmatch(key):
        return key
    key = quote(key, safe=SAFE, errors="replace").lower()
    return key if 0 < len(key) <= MAX_KEY else sha256(key.encode()).hexdigest()


class Cdn:
    """The CDN in front of the service. ``provider``: ``None`` if there is none."""

    def __init__(self, http: httpx2.AsyncClient, settings: PlatformSettings) -> None:
        self._http = http
        self._url = settings.cdn_purge_url
        self.provider = PROVIDERS[settings.cdn_provider] if self._url else None
        self._token = settings.cdn_purge_token
        self._pending: dict[str, float] = {}  # keys, and when they are given up
        self._wake = asyncio.Event()

    def purge_on_commit(self, session: AsyncSession, *keys: object) -> None:
        """Purge the responses with any of ``keys``, once the transaction has committed."""
        on_commit(session, partial(self._add, keys))

    async def _add(self, keys: tuple[object, ...]) -> None:
        self.purge(*keys)

    def purge(self, *keys: object) -> None:
        """Purge now, for changes that no transaction makes. Returns before the CDN is called."""
        if self.provider is None:
            return
        for key in map(to_key, keys):
            if key not in self._pending and len(self._pending) >= MAX_PENDING:
                PURGES.inc(outcome="lost")
                logger.error("too many keys wait for the CDN", key=key)
                continue
            self._pending[key] = time.monotonic() + MAX_AGE
        PENDING.set(len(self._pending))
        self._wake.set()

    async def keep_sending(self) -> None:
        """Send the keys that wait, as long as the process runs."""
        first, last = RETRY_INTERVALS
        interval = first
        while True:
            await self._wake.wait()
            if await self._send_batch():
                interval = first
                if not self._pending:
                    self._wake.clear()
            else:
                await asyncio.sleep(interval)
                interval = min(2 * interval, last)

    async def close(self) -> None:
        """Send what is left, for a moment."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._pending and await self._send_batch():
                    pass
        except TimeoutError:
            pass
        if self._pending:
            PURGES.inc(len(self._pending), outcome="lost")
            logger.error("keys were not purged", keys=len(self._pending))

    async def _send_batch(self) -> bool:
        """Send the oldest keys; return whether the CDN has taken them."""
        assert self.provider is not None
        batch = list(self._pending.items())[: self.provider.max_keys]
        for key, _ in batch:
            del self._pending[key]  # one that is added during the call is sent again
        sent = False
        try:
            sent = await self._call(self.provider, [key for key, _ in batch])
        finally:
            if not sent:
                self._put_back(batch)
            PENDING.set(len(self._pending))
        if sent:
            PURGES.inc(len(batch), outcome="purged")
        return sent

    async def _call(self, provider: Provider, keys: list[str]) -> bool:
        token = provider.auth_prefix + self._token.get_secret_value()
        headers = {provider.auth_header: token}
        try:
            response = await self._http.post(
                self._url, json={provider.member: keys}, headers=headers
            )
        except httpx2.HTTPError as error:
            reason = type(error).__name__
        else:
            if response.is_success:
                return True
            reason = str(response.status_code)
        ERRORS.inc()
        logger.warning("purge failed", keys=len(keys), reason=reason)
        return False

    def _put_back(self, batch: list[tuple[str, float]]) -> None:
        now = time.monotonic()
        late = [key for key, given_up in batch if given_up <= now]
        if late:
            PURGES.inc(len(late), outcome="lost")
            logger.error("keys were not purged", keys=len(late))
        kept = {key: given_up for key, given_up in batch if given_up > now}
        self._pending = {**kept, **self._pending}


async def _cdn(connection: HTTPConnection) -> Cdn:
    cdn: Cdn = connection.app.state.cdn
    return cdn


CdnDep = Annotated[Cdn, Depends(_cdn)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    if settings.cdn_purge_url and not settings.cdn_purge_token.get_secret_value():
        raise SettingsError(f"{ERROR_HEADER}\n  CDN_PURGE_TOKEN: CDN_PURGE_URL needs it")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.cdn = cdn = Cdn(app.state.http, settings)
        sending = asyncio.create_task(cdn.keep_sending())
        try:
            yield
        finally:
            await cancel(sending)
            await cdn.close()

    return lifespan
