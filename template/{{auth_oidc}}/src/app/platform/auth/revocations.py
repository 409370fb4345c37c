"""Revoked tokens: a list in Redis, which each request reads once.

The list is a sorted set. A member identifies a token, a session or a subject; its score is the time
of the revocation, in seconds since the epoch. Entries older than any valid token are deleted.
"""

import asyncio
import logging
import time

from app.platform.auth.tokens import AccessClaims, LogoutClaims
from app.platform.base.errors import Unavailable
from app.platform.data.redis import REDIS_ERRORS, RedisDep
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

KEY = "auth:revoked"
RETRY_INTERVAL = 5.0  # seconds between attempts while Redis is unavailable


class Revocations:
    """The list. A revocation takes effect immediately in all processes."""

    def __init__(self, redis: RedisDep, settings: PlatformSettings) -> None:
        self._redis = redis
        self._retention = settings.oidc_token_max_age + 60
        self._fail_open = settings.oidc_revocation_fail_open
        self._unavailable_until = 0.0

    async def revoke_token(self, token_id: str) -> None:
        """Revoke one token."""
        await self._add(f"token:{token_id}", time.time())

    async def revoke_subject(self, subject_id: str, until: float | None = None) -> None:
        """Revoke the tokens that a subject was issued until now, or until ``until``."""
        await self._add(f"subject:{subject_id}", time.time() if until is None else until)

    async def revoke(self, logout: LogoutClaims) -> None:
        """Revoke the tokens of a session or, without one, all of a subject."""
        if logout.session:
            await self._add(f"session:{logout.session}", logout.issued_at)
        elif logout.subject_id:
            await self.revoke_subject(logout.subject_id, logout.issued_at)

    async def is_revoked(self, access: AccessClaims) -> bool:
        """Whether a token is revoked; without Redis, ``OIDC_REVOCATION_FAIL_OPEN`` decides."""
        members = [f"token:{access.id}", f"subject:{access.subject_id}"]
        if access.session:
            members.append(f"session:{access.session}")
        try:
            token, subject, *session = await self._query(members)
        except Unavailable:
            if self._fail_open:
                return False
            raise
        if token is not None or (session and session[0] is not None):
            return True
        return subject is not None and access.issued_at <= subject

    async def _query(self, members: list[str]) -> list[float | None]:
        if time.monotonic() < self._unavailable_until:
            raise _unavailable()
        try:
            scores: list[float | None] = await self._redis.zmscore(KEY, members)
        except REDIS_ERRORS as error:
            self._unavailable_until = time.monotonic() + RETRY_INTERVAL
            logger.warning("revocations: Redis is unavailable, %s", type(error).__name__)
            raise _unavailable() from None
        return scores

    async def _add(self, member: str, since: float) -> None:
        try:
            async with asyncio.timeout(RETRY_INTERVAL), self._redis.pipeline() as pipeline:
                # The later time wins: a repeated old logout must not shorten a newer revocation.
                pipeline.zadd(KEY, {member: since}, gt=True)
                pipeline.zremrangebyscore(KEY, "-inf", time.time() - self._retention)
                pipeline.expire(KEY, self._retention)
                await pipeline.execute()
        except REDIS_ERRORS:
            raise _unavailable() from None


def _unavailable() -> Unavailable:
    return Unavailable("Revoked tokens cannot be checked.", retry_after=int(RETRY_INTERVAL))
