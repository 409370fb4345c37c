"""Tokens that are over before their time: a list in Redis, which each request asks once.

Whom an entry is about is a member of one sorted set, and since when is its score, in seconds since
the epoch. What is older than any token that is accepted is forgotten.
"""

import asyncio
import logging
import time

from app.auth.tokens import AccessClaims, Logout
from app.platform.base.errors import Unavailable
from app.platform.data.redis import REDIS_ERRORS, RedisDep
from app.settings import Settings

logger = logging.getLogger(__name__)

KEY = "auth:revoked"
RETRY_INTERVAL = 5.0  # seconds for which a Redis that failed is not asked


class Revocations:
    """The list. What is put on it holds for all processes, from the next request on."""

    def __init__(self, redis: RedisDep, settings: Settings) -> None:
        self._redis = redis
        self._kept = settings.oidc_token_max_age + 60
        self._fail_open = settings.oidc_revocation_fail_open
        self._away_until = 0.0

    async def revoke_token(self, token_id: str) -> None:
        """End one token."""
        await self._add(f"token:{token_id}", time.time())

    async def revoke_subject(self, subject_id: str, until: float | None = None) -> None:
        """End what a subject was given until now, or until then."""
        await self._add(f"subject:{subject_id}", time.time() if until is None else until)

    async def revoke(self, logout: Logout) -> None:
        """End what the provider says is over: a session, or else all of a subject."""
        if logout.session:
            await self._add(f"session:{logout.session}", logout.issued_at)
        elif logout.subject_id:
            await self.revoke_subject(logout.subject_id, logout.issued_at)

    async def has(self, access: AccessClaims) -> bool:
        """Tell whether a token is over; without Redis, as ``OIDC_REVOCATION_FAIL_OPEN`` says."""
        members = [f"token:{access.id}", f"subject:{access.subject_id}"]
        if access.session:
            members.append(f"session:{access.session}")
        try:
            token, subject, *session = await self._ask(members)
        except Unavailable:
            if self._fail_open:
                return False
            raise
        if token is not None or (session and session[0] is not None):
            return True
        return subject is not None and access.issued_at <= subject

    async def _ask(self, members: list[str]) -> list[float | None]:
        if time.monotonic() < self._away_until:
            raise _away()
        try:
            scores: list[float | None] = await self._redis.zmscore(KEY, members)
        except REDIS_ERRORS as error:
            self._away_until = time.monotonic() + RETRY_INTERVAL
            logger.warning("revoked tokens are not known: Redis is away, %s", type(error).__name__)
            raise _away() from None
        return scores

    async def _add(self, member: str, since: float) -> None:
        try:
            async with asyncio.timeout(RETRY_INTERVAL), self._redis.pipeline() as pipeline:
                # Of two times the later one holds: an old logout, sent again, takes nothing back.
                pipeline.zadd(KEY, {member: since}, gt=True)
                pipeline.zremrangebyscore(KEY, "-inf", time.time() - self._kept)
                pipeline.expire(KEY, self._kept)
                await pipeline.execute()
        except REDIS_ERRORS:
            raise _away() from None


def _away() -> Unavailable:
    return Unavailable("Which tokens were revoked can't be told.", retry_after=int(RETRY_INTERVAL))
