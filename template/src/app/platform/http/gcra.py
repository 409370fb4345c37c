"""Rate limits by the generic cell rate algorithm (GCRA), in Redis, shared by all processes.

"60/minute" allows a burst of 60 requests, and then one each second. A limit takes one key and one
round trip. Unlike a fixed window, it never allows twice the rate around a window boundary.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.platform.base.errors import Unavailable
from app.platform.base.tasks import cancel
from app.platform.settings import PlatformSettings
from app.platform.settings.rates import Rate

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 5.0  # seconds between attempts while Redis is unavailable
MAX_BATCH = 100  # limits in one round trip
MAX_LOCAL_KEYS = 10_000  # kept by a process while Redis is unavailable

# ARGV has an interval and a window for each key. A key's value is its theoretical arrival time: the
# time at which the whole burst is available again. All are in microseconds.
GCRA_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local results = {}
for i, key in ipairs(KEYS) do
  local interval, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local used = math.max((tonumber(redis.call('GET', key)) or 0) - now, 0)
  local allowed = used + interval <= window
  if allowed then
    used = used + interval
    redis.call('SET', key, string.format('%.0f', now + used), 'PX', math.ceil(used / 1000))
  end
  results[i] = {allowed and 1 or 0, used}
end
return results
"""

# Whether the request is allowed, and microseconds until the whole burst is available again.
Decision = tuple[bool, int]
PendingHit = tuple[str, Rate, asyncio.Future[Decision | None]]


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """The result of counting one request against a limit.

    ``used``: microseconds until the whole burst is available again.
    """

    name: str
    rate: Rate
    allowed: bool
    used: int

    @property
    def remaining(self) -> int:
        return max(0, (self.rate.window * 1_000_000 - self.used) // self.rate.interval)

    @property
    def reset_seconds(self) -> int:
        """Seconds until a request is allowed if none remains, else until the burst is available."""
        missing = self.rate.window * 1_000_000 - self.rate.interval
        return max(1, math.ceil((self.used - (0 if self.remaining else missing)) / 1_000_000))

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields of draft-ietf-httpapi-ratelimit-headers-11 (May 2026)."""
        rate = self.rate
        return [
            (b"ratelimit-policy", f'"{self.name}";q={rate.limit};w={rate.window}'.encode()),
            (b"ratelimit", f'"{self.name}";r={self.remaining};t={self.reset_seconds}'.encode()),
        ]


class RateLimiter:
    """Counts requests against limits.

    Requests that arrive during a round trip are batched into the next one.
    """

    def __init__(self, redis: Redis, settings: PlatformSettings) -> None:
        self._redis = redis
        self._script = redis.register_script(GCRA_SCRIPT)
        self._timeout = settings.rate_limit_timeout
        self._fail_open = settings.rate_limit_fail_open
        self._unavailable_until = 0.0
        self._pending: list[PendingHit] = []
        self._batch_task: asyncio.Task[None] | None = None
        self._local: dict[str, int] = {}

    async def hit(self, name: str, rate: Rate, key: str) -> RateLimitResult:
        """Count one request of ``key`` against the limit ``name``.

        Raises ``Unavailable`` when Redis is unavailable and limits do not fail open.
        """
        full_key = f"limit:{name}:{key}"
        result = await self._request(full_key, rate)
        if result is None:
            if not self._fail_open:
                detail = "The rate limit can't be checked; try again."
                raise Unavailable(detail, retry_after=int(RETRY_INTERVAL))
            result = self._count_locally(full_key, rate)
        return RateLimitResult(name, rate, *result)

    async def reset(self, name: str, key: str) -> None:
        """Reset the count of ``key``; best effort."""
        full_key = f"limit:{name}:{key}"
        self._local.pop(full_key, None)
        if not self._unavailable_until:
            await self._execute(self._redis.delete(full_key))

    async def close(self) -> None:
        """End the round trip of requests that were cancelled: it would connect again."""
        if self._batch_task:
            await cancel(self._batch_task)

    async def _request(self, key: str, rate: Rate) -> Decision | None:
        """Count in Redis; ``None`` while it is unavailable.

        Then one request every ``RETRY_INTERVAL`` seconds tries again.
        """
        now = time.monotonic()
        if now < self._unavailable_until:
            return None
        if self._unavailable_until:
            self._unavailable_until = now + RETRY_INTERVAL
        decision: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        self._pending.append((key, rate, decision))
        if self._batch_task is None:
            self._batch_task = asyncio.create_task(self._run_batches())
        return await decision

    async def _run_batches(self) -> None:
        batch: list[PendingHit] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
                decisions = await self._run_script(batch)
                if decisions is None:
                    break
                _resolve(batch, decisions)
        finally:
            _resolve(batch + self._pending, repeat(None))
            self._pending = []
            self._batch_task = None

    async def _run_script(self, batch: list[PendingHit]) -> Iterable[Decision] | None:
        keys = [key for key, _, _ in batch]
        rates = [n for _, rate, _ in batch for n in (rate.interval, rate.window * 1_000_000)]
        results = await self._execute(self._script(keys, rates))
        return results and [(bool(allowed), int(used)) for allowed, used in results]

    async def _execute(self, command: Any) -> Any:
        """The result of a Redis command; ``None`` when it failed or timed out."""
        try:
            async with asyncio.timeout(self._timeout):
                result = await command
        except (RedisError, OSError, TimeoutError) as error:
            if not self._unavailable_until:
                logger.warning("rate limits: Redis is unavailable, %s", type(error).__name__)
            self._unavailable_until = time.monotonic() + RETRY_INTERVAL
            return None
        self._unavailable_until = 0.0
        return result

    def _count_locally(self, key: str, rate: Rate) -> Decision:
        """Run the algorithm of ``GCRA_SCRIPT`` in this process alone."""
        now = time.monotonic_ns() // 1000
        used = max(self._local.pop(key, 0) - now, 0)
        allowed = used + rate.interval <= rate.window * 1_000_000
        used += rate.interval if allowed else 0
        if len(self._local) >= MAX_LOCAL_KEYS:
            del self._local[next(iter(self._local))]
        self._local[key] = now + used
        return allowed, used


def _resolve(batch: list[PendingHit], decisions: Iterable[Decision | None]) -> None:
    for (_, _, future), decision in zip(batch, decisions, strict=False):
        if not future.done():  # not resolved before, and its request was not cancelled
            future.set_result(decision)
