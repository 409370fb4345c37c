"""Buckets of requests that refill evenly, kept in Redis for all processes together.

"60/minute" lets 60 requests through at once, and then one each second. That is the generic cell
rate algorithm: a key for each bucket, one round trip, and no edge of a window at which twice as
much gets through.
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
from app.platform.settings import PlatformSettings
from app.platform.settings.rates import Rate

logger = logging.getLogger(__name__)

TRY_AGAIN = 5.0  # seconds for which a Redis that failed is not asked
TOGETHER = 100  # buckets in one round trip at most
LOCAL_BUCKETS = 10_000  # that a process keeps while Redis is away

# For each key an interval and a window; the value of a key is the time at which its bucket is full
# again. All in microseconds.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local interval, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local used = math.max((tonumber(redis.call('GET', key)) or 0) - now, 0)
  local allowed = used + interval <= window
  if allowed then
    used = used + interval
    redis.call('SET', key, string.format('%.0f', now + used), 'PX', math.ceil(used / 1000))
  end
  answers[i] = {allowed and 1 or 0, used}
end
return answers
"""

Answer = tuple[bool, int]  # whether it is allowed, and the microseconds until the bucket is full
Waiting = tuple[str, Rate, asyncio.Future[Answer | None]]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a limit said to one request. ``used``: microseconds until the bucket is full again."""

    name: str
    rate: Rate
    allowed: bool
    used: int

    @property
    def remaining(self) -> int:
        return max(0, (self.rate.window * 1_000_000 - self.used) // self.rate.interval)

    @property
    def seconds(self) -> int:
        """Until one more is allowed, when there is none; else until the bucket is full again."""
        missing = self.rate.window * 1_000_000 - self.rate.interval
        return max(1, math.ceil((self.used - (0 if self.remaining else missing)) / 1_000_000))

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As draft-ietf-httpapi-ratelimit-headers-11 has them, of May 2026."""
        rate = self.rate
        return [
            (b"ratelimit-policy", f'"{self.name}";q={rate.limit};w={rate.window}'.encode()),
            (b"ratelimit", f'"{self.name}";r={self.remaining};t={self.seconds}'.encode()),
        ]


class Limiter:
    """Takes requests out of buckets.

    Requests that come while Redis is being asked are asked about together in the next round trip:
    under load, when it matters, a round trip is shared by many.
    """

    def __init__(self, redis: Redis, settings: PlatformSettings) -> None:
        self._redis = redis
        self._take = redis.register_script(TAKE)
        self._timeout = settings.rate_limit_timeout
        self._fail_open = settings.rate_limit_fail_open
        self._away_until = 0.0
        self._waiting: list[Waiting] = []
        self._asking: asyncio.Task[None] | None = None
        self._local: dict[str, int] = {}

    async def spend(self, name: str, rate: Rate, key: str) -> Spent:
        """Take one request of ``key`` out of the limit ``name``.

        Raises ``Unavailable`` when Redis is away and limits don't fail open.
        """
        bucket = f"limit:{name}:{key}"
        answer = await self._ask(bucket, rate)
        if answer is None:
            if not self._fail_open:
                raise Unavailable("The rate limit can't be checked.", retry_after=int(TRY_AGAIN))
            answer = self._count(bucket, rate)
        return Spent(name, rate, *answer)

    async def refill(self, name: str, key: str) -> None:
        """Make the bucket of ``key`` full again; it doesn't matter much if that fails."""
        bucket = f"limit:{name}:{key}"
        self._local.pop(bucket, None)
        if not self._away_until:
            await self._guarded(self._redis.delete(bucket))

    async def _ask(self, bucket: str, rate: Rate) -> Answer | None:
        """Ask Redis; ``None`` when it is away. One request in ``TRY_AGAIN`` seconds tries again."""
        now = time.monotonic()
        if now < self._away_until:
            return None
        if self._away_until:
            self._away_until = now + TRY_AGAIN
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bucket, rate, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return await answer

    async def _ask_for_all(self) -> None:
        asked: list[Waiting] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                answers = await self._take_all(asked)
                if answers is None:
                    break
                _tell(asked, answers)
        finally:
            _tell(asked + self._waiting, repeat(None))
            self._waiting = []
            self._asking = None

    async def _take_all(self, waiting: list[Waiting]) -> Iterable[Answer] | None:
        keys = [bucket for bucket, _, _ in waiting]
        rates = [n for _, rate, _ in waiting for n in (rate.interval, rate.window * 1_000_000)]
        answers = await self._guarded(self._take(keys, rates))
        return answers and [(bool(allowed), int(used)) for allowed, used in answers]

    async def _guarded(self, command: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await command
        except (RedisError, OSError, TimeoutError) as error:
            if not self._away_until:
                logger.warning("rate limits: Redis is away, %s", type(error).__name__)
            self._away_until = time.monotonic() + TRY_AGAIN
            return None
        self._away_until = 0.0
        return answer

    def _count(self, bucket: str, rate: Rate) -> Answer:
        """The same as ``TAKE``, for this process alone."""
        now = time.monotonic_ns() // 1000
        used = max(self._local.pop(bucket, 0) - now, 0)
        allowed = used + rate.interval <= rate.window * 1_000_000
        used += rate.interval if allowed else 0
        if len(self._local) >= LOCAL_BUCKETS:
            del self._local[next(iter(self._local))]
        self._local[bucket] = now + used
        return allowed, used


def _tell(waiting: list[Waiting], answers: Iterable[Answer | None]) -> None:
    for (_, _, future), answer in zip(waiting, answers, strict=False):
        if not future.done():  # answered already, or its request was given up
            future.set_result(answer)
