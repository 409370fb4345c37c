"""Errors of upstreams: what a peer does wrong, as a 502, 503 or 504."""

import math
from http import HTTPStatus
from typing import ClassVar

from app.platform.base.errors import AppError


class UpstreamError(AppError):
    """An upstream did not answer as it should; ``reason`` is for logs."""

    status = HTTPStatus.BAD_GATEWAY
    code = "bad_gateway"
    outcome: ClassVar[str] = "failed"
    predicate: ClassVar[str] = "failed"

    def __init__(
        self,
        upstream: str,
        reason: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"The upstream {upstream} {self.predicate}.")
        self.upstream = upstream
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after


class UpstreamFailed(UpstreamError):
    """The upstream answered with a server error, or not in HTTP, or not at all (502)."""


class UpstreamUnavailable(UpstreamError):
    """The upstream is busy or has failed too often, or too many calls wait for it (503)."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    outcome = "unavailable"
    predicate = "is not available"

    def __init__(
        self,
        upstream: str,
        reason: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(upstream, reason, retryable=retryable, retry_after=retry_after)
        self.headers["Retry-After"] = str(max(1, math.ceil(retry_after or 0)))


class UpstreamTimedOut(UpstreamError):
    """The upstream's response was not complete in time (504)."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "gateway_timeout"
    outcome = "timed_out"
    predicate = "did not respond in time"
