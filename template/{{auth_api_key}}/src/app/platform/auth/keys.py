"""Operations on keys, for routes and commands."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import key_format
from app.platform.auth.models import ApiKey
from app.platform.base.errors import Conflict, NotFound


def is_active() -> ColumnElement[bool]:
    """The condition that a key is neither revoked nor expired."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return ApiKey.revoked_at.is_(None) & unexpired


async def create(
    db: AsyncSession, prefix: str, owner: str, scopes: Collection[str], lifetime: timedelta | None
) -> tuple[ApiKey, str]:
    """Create a key for ``owner``; without a ``lifetime`` it never expires.

    Returns its row and the key itself, which is not stored.
    """
    key_id, text = key_format.generate(prefix)
    now = datetime.now(UTC)
    key = ApiKey(
        id=key_id,
        owner=owner,
        hash=key_format.hash_key(text),
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
    """Create a key with the same scopes; the old one stays valid for ``overlap``.

    Raises ``Conflict`` if the old one has been revoked or has expired.
    """
    now = datetime.now(UTC)
    if old.revoked_at or (old.expires_at and old.expires_at <= now):
        raise Conflict("This key is revoked or expired: create a new one.")
    if overlap:
        old.expires_at = min(old.expires_at or now + overlap, now + overlap)
    else:
        await revoke(db, old)
    return await create(db, prefix, old.owner, old.scopes, lifetime)


async def revoke(db: AsyncSession, key: ApiKey) -> None:
    """Revoke a key, which takes effect immediately."""
    key.revoked_at = key.revoked_at or datetime.now(UTC)
    await db.flush()


async def revoke_all(db: AsyncSession, owner: str) -> int:
    """Revoke all active keys of ``owner``; return their number."""
    of_owner = update(ApiKey).where(ApiKey.owner == owner, is_active())
    revoked = await db.execute(of_owner.values(revoked_at=func.now()).returning(ApiKey.id))
    return len(revoked.all())


async def get_for_update(db: AsyncSession, key_id: str) -> ApiKey:
    """A key, locked (``FOR UPDATE``); raises ``NotFound``."""
    key = await db.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound("This key does not exist.")
    return key


async def list_keys(db: AsyncSession, owner: str | None = None) -> Sequence[ApiKey]:
    """The keys of an owner, or of all, newest first, including revoked and expired ones."""
    statement = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)
    if owner:
        statement = statement.where(ApiKey.owner == owner)
    return (await db.execute(statement)).scalars().all()
