"""The table of idempotency keys, and every statement that uses it.

A key is inserted by the transaction of its request, so that both commit or neither does. Another
request with the same key waits for that transaction: its INSERT conflicts with a row that is not
committed yet. All times are from the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    DateTime,
    Index,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.base.errors import Conflict, Unavailable
from app.platform.data.database import Base
from app.platform.data.driver_errors import sqlstate

LOCK_NOT_AVAILABLE = "55P03"  # SQLSTATE: lock_timeout has passed
# Attempts to insert a key: it may expire, or be deleted, between the INSERT and the SELECT.
ATTEMPTS = 3


class IdempotencyKey(Base):
    """One key of one caller, with the response to its request."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        Index("ix_idempotency_keys_expires_at", "expires_at"),
        {"info": {"outlives_account": "keys expire, and are deleted then"}},
    )

    caller: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # Null until the route returns. In a committed row, only `body` may be null: it was too large.
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[list[list[str]] | None] = mapped_column(JSONB(none_as_null=True))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


@dataclass(frozen=True)
class StoredResponse:
    """The response to the first request with a key. ``body``: ``None`` if it was too large."""

    fingerprint: bytes
    status: int
    headers: Sequence[Sequence[str]]
    body: bytes | None


class KeyInUse(Conflict):
    """Another request with the same key has not finished within the time to wait."""

    code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still being processed; try again.",
            headers={"Retry-After": "1"},
        )


# `lock_timeout` bounds the wait for the other transaction. It is set and restored in this statement
# to save two round trips; the route's own statements keep the value that they had.
INSERT = text(
    """
    WITH former AS MATERIALIZED (SELECT current_setting('lock_timeout') AS lock_timeout),
    bounded AS MATERIALIZED (SELECT set_config('lock_timeout', :wait, true) FROM former)
    INSERT INTO idempotency_keys (caller, key, fingerprint, expires_at)
    SELECT :caller, :key, :fingerprint, now() + make_interval(secs => :ttl) FROM bounded
    ON CONFLICT DO NOTHING
    RETURNING set_config('lock_timeout', (SELECT lock_timeout FROM former), true)
    """
).bindparams(bindparam("fingerprint", type_=LargeBinary))
RESTORE = text("SET LOCAL lock_timeout TO DEFAULT")  # an INSERT that conflicts restores nothing
THIS_KEY = (IdempotencyKey.caller == bindparam("of"), IdempotencyKey.key == bindparam("named"))
EXPIRED = IdempotencyKey.expires_at <= func.now()
STORED = select(
    IdempotencyKey.fingerprint,
    IdempotencyKey.status,
    IdempotencyKey.headers,
    IdempotencyKey.body,
    EXPIRED.label("expired"),
).where(*THIS_KEY)
DELETE_EXPIRED = delete(IdempotencyKey).where(*THIS_KEY, EXPIRED)
STORE = update(IdempotencyKey).where(*THIS_KEY)
PRIMARY_KEY = tuple_(IdempotencyKey.caller, IdempotencyKey.key)


async def claim(
    session: AsyncSession, caller: str, key: str, fingerprint: bytes, *, ttl: float, wait: float
) -> StoredResponse | None:
    """Insert a key; if the caller has used it, return the response that is stored with it.

    ``ttl``: seconds until it expires. ``wait``: seconds to wait for a request that has inserted it
    and has not ended; then ``KeyInUse`` is raised, and the transaction has failed.
    """
    named = {"of": caller, "named": key}
    inserted = {"caller": caller, "key": key, "fingerprint": fingerprint, "ttl": ttl}
    for _ in range(ATTEMPTS):
        try:
            new = await session.execute(INSERT, {**inserted, "wait": f"{wait * 1000:.0f}ms"})
        except DBAPIError as error:
            if sqlstate(error) == LOCK_NOT_AVAILABLE:
                raise KeyInUse from None
            raise
        if new.first():
            return None
        found = (await session.execute(STORED, named)).first()
        if found and not found.expired:
            return StoredResponse(found.fingerprint, found.status, found.headers, found.body)
        await session.execute(DELETE_EXPIRED, named)
        await session.execute(RESTORE)
    raise Unavailable("The Idempotency-Key is expiring; try again.")


async def store(session: AsyncSession, caller: str, key: str, **response: Any) -> None:
    """Add the response, its ``status``, ``headers`` and ``body``, to a key that was inserted."""
    await session.execute(STORE.values(**response), {"of": caller, "named": key})


async def sweep(session: AsyncSession, limit: int) -> int:
    """Delete up to ``limit`` expired keys that nobody uses at the moment; return how many."""
    expired = select(IdempotencyKey.caller, IdempotencyKey.key).where(EXPIRED).limit(limit)
    unused = expired.with_for_update(skip_locked=True)
    statement = delete(IdempotencyKey).where(PRIMARY_KEY.in_(unused))
    deleted = await session.execute(statement.returning(IdempotencyKey.key))
    return len(deleted.all())
