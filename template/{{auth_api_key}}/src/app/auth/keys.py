"""What can be done with keys, whoever asks: a route, a command, a test."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import key_text
from app.auth.models import ApiKey
from app.platform.base.errors import Conflict, NotFound


def is_active() -> ColumnElement[bool]:
    """Select the keys that are good for something."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return ApiKey.revoked_at.is_(None) & unexpired


async def create(
    db: AsyncSession, prefix: str, owner: str, scopes: Collection[str], lifetime: timedelta | None
) -> tuple[ApiKey, str]:
    """Make a key for ``owner``; without a ``lifetime`` it never expires.

    Returns its row and the key itself, which is not stored and can't be shown again.
    """
    key_id, text = key_text.new(prefix)
    now = datetime.now(UTC)
    key = ApiKey(
        id=key_id,
        owner=owner,
        hash=key_text.fingerprint(text),
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=lifetime and now + lifetime,
    )
    db.add(key)
    await db.flush()
    return key, text


async def rotate(
    db: AsyncSession, prefix: str, old: ApiKey, lifetime: timedelta | None, overlap: timedelta
) -> tuple[ApiKey, str]:
    """Make another key with the same scopes; the old one is good for ``overlap`` yet.

    Raises ``Conflict`` if the old one is good for nothing by now.
    """
    now = datetime.now(UTC)
    if old.revoked_at or (old.expires_at and old.expires_at <= now):
        raise Conflict("This key has ended: make a new one.")
    if overlap:
        old.expires_at = min(old.expires_at or now + overlap, now + overlap)
    else:
        await revoke(db, old)
    return await create(db, prefix, old.owner, old.scopes, lifetime)


async def revoke(db: AsyncSession, key: ApiKey) -> None:
    """End a key at once."""
    key.revoked_at = key.revoked_at or datetime.now(UTC)
    await db.flush()


async def revoke_all(db: AsyncSession, owner: str) -> int:
    """End all keys of a caller at once; return how many."""
    of_owner = update(ApiKey).where(ApiKey.owner == owner, is_active())
    ended = await db.execute(of_owner.values(revoked_at=func.now()).returning(ApiKey.id))
    return len(ended.all())


async def find(db: AsyncSession, key_id: str) -> ApiKey:
    """Return a key, so that nobody else changes it meanwhile; raise ``NotFound``."""
    key = await db.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound("There is no such key.")
    return key


async def all_of(db: AsyncSession, owner: str | None = None) -> Sequence[ApiKey]:
    """Return the keys of a caller, or of all, newest first: those that ended, too."""
    statement = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)
    if owner:
        statement = statement.where(ApiKey.owner == owner)
    return (await db.execute(statement)).scalars().all()
