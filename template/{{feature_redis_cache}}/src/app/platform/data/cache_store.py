"""The cached values in Redis: each with a lock for its load, deleted with it by an invalidation.

A load holds the lock, with an owner and an expiry, and stores its value only if it still holds it.
An invalidation deletes the value **and the lock**, so that a load which began before the commit
can't store what it read after it. No method raises while Redis is unavailable or slow.
"""

import asyncio
import time

from prometheus_client import Counter
from redis.asyncio import Redis

from app.platform import about
from app.platform.data.redis import REDIS_ERRORS
from app.platform.observability.logs import get_logger

logger = get_logger(__name__)

Key = tuple[str, str]  # the namespace and the key in it

# One round trip: the value, the milliseconds that it is still fresh, and whether the caller is to
# load it. KEYS: value, lock. ARGV: owner, expiry of the lock and stale time in milliseconds.
LOOKUP = """
local value = redis.call('GET', KEYS[1])
local fresh = 0
if value then
    fresh = redis.call('PTTL', KEYS[1]) - ARGV[3]
    if fresh > 0 then return {value, fresh, 0} end
end
local owner = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {value, fresh, owner and 1 or 0}
"""
# Release the lock and store the value, if the lock is still the caller's. ARGV: owner, value, and
# its expiry in milliseconds, 0 for a value that is not stored.
STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[3] ~= '0' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
RETRY_INTERVAL = 1.0  # seconds without Redis after an error, and between attempts to delete
MAX_PENDING = 10_000  # deletions that wait for Redis


class CacheStore:
    """Encoded values and locks in Redis.

    ``errors``: a counter with the label ``operation``. ``timeout``: seconds for each use of Redis.
    """

    def __init__(self, redis: Redis, errors: Counter, timeout: float) -> None:
        self._lookup = redis.register_script(LOOKUP)
        self._store = redis.register_script(STORE)
        self._redis = redis
        self._errors = errors
        self._timeout = timeout
        self._pending: dict[Key, float] = {}  # deletions, and when their values have expired
        self._unavailable_until = 0.0

    def lock_seconds(self, load_timeout: float) -> float:
        """Expiry of the lock of a load that may take ``load_timeout``."""
        return load_timeout + self._timeout

    async def look_up(
        self, key: Key, owner: str, load_timeout: float, stale: float
    ) -> tuple[str | None, int, bool] | None:
        """Value, milliseconds that it is fresh, whether to load it; ``None`` without Redis.

        Takes the lock for ``owner`` if the value is not fresh and nobody holds the lock.
        """
        # A value whose deletion waits for Redis is not read.
        if key in self._pending or self._is_unavailable():
            return None
        lock = int(self.lock_seconds(load_timeout) * 1000)
        arguments: list[str | int] = [owner, lock, int(stale * 1000)]
        try:
            async with asyncio.timeout(self._timeout):
                text, fresh, owns = await self._lookup(_redis_keys(key), arguments)
        except REDIS_ERRORS as error:
            self._failed("read", error)
            return None
        return text, fresh, bool(owns)

    async def release(self, key: Key, owner: str, text: str, expiry: int) -> bool:
        """Release the lock and store the value; return whether the lock was still held.

        ``expiry``: in milliseconds; 0 stores nothing.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return bool(await self._store(_redis_keys(key), [owner, text, expiry]))
        except REDIS_ERRORS as error:
            self._failed("store", error)
            return False

    async def delete(self, key: Key, expired: float) -> None:
        """Delete a value and its lock, or let ``retry_deletes`` do it until ``expired``."""
        if not self._is_unavailable() and await self._delete(key):
            return
        if key in self._pending or len(self._pending) < MAX_PENDING:
            self._pending[key] = expired
        else:
            logger.error("too many invalidations wait for Redis", cache=key[0])

    async def retry_deletes(self) -> None:
        """Try the deletions that failed, until their values have expired by themselves."""
        while True:
            await asyncio.sleep(RETRY_INTERVAL)
            for key, expired in list(self._pending.items()):
                if time.monotonic() < expired and not await self._delete(key):
                    break
                if self._pending.get(key) == expired:  # else it was invalidated again meanwhile
                    del self._pending[key]

    async def _delete(self, key: Key) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.delete(*_redis_keys(key))
        except REDIS_ERRORS as error:
            self._failed("invalidate", error)
            return False
        return True

    def _failed(self, operation: str, error: BaseException) -> None:
        self._errors.labels(operation).inc()
        if not self._is_unavailable():
            logger.warning("cache without Redis", operation=operation, error=type(error).__name__)
        self._unavailable_until = time.monotonic() + RETRY_INTERVAL

    def _is_unavailable(self) -> bool:
        """Whether a use of Redis has failed within the last second."""
        return time.monotonic() < self._unavailable_until


def _redis_keys(key: Key) -> list[str]:
    """The keys of a value and of its lock, in one slot of a cluster."""
    value = f"{about.NAME}:cache:{key[0]}:{{{key[1]}}}"
    return [value, f"{value}:lock"]
