"""Retries of an upstream: which attempts may be repeated, when, and how many in all."""

import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

# https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
# "Not now", and failures of servers and of the proxies in front of them.
RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})


def is_idempotent(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request has the same effect if the peer receives it twice."""
    return method in IDEMPOTENT_METHODS or "idempotency-key" in map(str.lower, headers)


class RetryBudget:
    """A token bucket: each request adds ``ratio`` tokens, each retry takes one.

    It is full at first. However many requests fail, there are never more retries than
    ``burst + ratio * requests``.
    """

    def __init__(self, ratio: float, burst: int) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = float(burst)

    def deposit(self) -> None:
        """Count a request."""
        self._tokens = min(self._tokens + self._ratio, max(self._burst, 1))

    def withdraw(self) -> bool:
        """Take a token for a retry, if there is one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def backoff(retry: int, base: float, longest: float) -> float:
    """Seconds before a retry, counted from 0: exponential, with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(longest, base * 2.0**retry))  # noqa: S311


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that ``Retry-After`` asks for, given in seconds or as a date; ``None`` without it."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, when.replace(tzinfo=when.tzinfo or UTC).timestamp() - time.time())
