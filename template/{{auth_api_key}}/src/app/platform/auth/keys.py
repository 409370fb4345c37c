"""Operations on keys, for routes and commands. Each change is in the audit log."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log, key_format
from app.platform.auth.audit_log import Actor
from app.platform.auth.models import ApiKey
from app.platform.base.errors import Conflict, NotFound

COLUMNS = (
    ApiKey.id,
    ApiKey.owner,
    ApiKey.scopes,
    ApiKey.created_at,
    ApiKey.expires_at,
    ApiKey.revoked_at,
    ApiKey.disabled_at,
    ApiKey.last_used_at,
)


def is_active() -> ColumnElement[bool]:
    """The condition that a key is neither revoked nor disabled nor expired."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return ApiKey.revoked_at.is_(None) & ApiKey.disabled_at.is_(None) & unexpired


async def create(
    db: AsyncSession,
    actor: Actor,
    prefix: str,
    owner: str,
    scopes: Collection[str],
    lifetime: timedelta | None,
) -> tuple[ApiKey, str]:
    """Create a key for ``owner``; without a ``lifetime`` it never expires.

    Returns its row and the key itself, which is not stored.
    """
    key, text = await _add(db, prefix, owner, scopes, lifetime)
    await _record(db, actor, "key_create", key, scopes=" ".join(key.scopes))
    return key, text


async def _add(
    db: AsyncSession, prefix: str, owner: str, scopes: Collection[str], lifetime: timedelta | None
) -> tuple[ApiKey, str]:
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
    db: AsyncSession,
    actor: Actor,
    prefix: str,
    old: ApiKey,
    lifetime: timedelta | None,
    overlap: timedelta,
) -> tuple[ApiKey, str]:
    """Create a key with the same scopes; the old one stays valid for ``overlap``.

    Raises ``Conflict`` if the old one is revoked, disabled or expired.
    """
    now = datetime.now(UTC)
    if old.revoked_at or old.disabled_at or (old.expires_at and old.expires_at <= now):
        raise Conflict("This key is revoked, disabled or expired: create a new one.")
    if overlap:
        old.expires_at = min(old.expires_at or now + overlap, now + overlap)
    else:
        old.revoked_at = now
    key, text = await _add(db, prefix, old.owner, old.scopes, lifetime)
    await _record(db, actor, "key_rotate", old, new_key=key.id)
    return key, text


async def revoke(db: AsyncSession, actor: Actor, key: ApiKey) -> None:
    """Revoke a key, which takes effect immediately; nothing makes it valid again."""
    if key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        await _record(db, actor, "key_revoke", key)


async def revoke_all(db: AsyncSession, actor: Actor, owner: str) -> int:
    """Revoke all active keys of ``owner``; return their number."""
    of_owner = select(ApiKey).where(ApiKey.owner == owner, is_active()).with_for_update()
    found = (await db.scalars(of_owner)).all()
    for key in found:
        await revoke(db, actor, key)
    return len(found)


async def disable(db: AsyncSession, actor: Actor, key: ApiKey) -> None:
    """Refuse a key until it is enabled, from the next request on."""
    if key.disabled_at is None:
        key.disabled_at = datetime.now(UTC)
        await _record(db, actor, "key_disable", key)


async def enable(db: AsyncSession, actor: Actor, key: ApiKey) -> None:
    """Accept a disabled key again."""
    if key.disabled_at is not None:
        key.disabled_at = None
        await _record(db, actor, "key_enable", key)


async def get(db: AsyncSession, key_id: str) -> ApiKey:
    """A key; raises ``NotFound``."""
    key = await db.get(ApiKey, key_id)
    if key is None:
        raise NotFound("This key does not exist.")
    return key


async def get_for_update(db: AsyncSession, key_id: str) -> ApiKey:
    """A key, locked (``FOR UPDATE``); raises ``NotFound``."""
    key = await db.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound("This key does not exist.")
    return key


def select_page(
    limit: int, after: tuple[datetime, str] | None, owner: str | None = None
) -> Select[*tuple[Any, ...]]:
    """A page of the keys of an owner, or of all, newest first, and one more if there is a next."""
    statement = select(*COLUMNS).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
    if owner is not None:
        statement = statement.where(ApiKey.owner == owner)
    if after is not None:
        statement = statement.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(*after))
    return statement.limit(limit + 1)


async def list_keys(db: AsyncSession, owner: str | None = None) -> Sequence[ApiKey]:
    """The keys of an owner, or of all, newest first, including revoked and expired ones."""
    statement = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)
    if owner:
        statement = statement.where(ApiKey.owner == owner)
    return (await db.execute(statement)).scalars().all()


async def _record(db: AsyncSession, actor: Actor, action: str, key: ApiKey, **details: str) -> None:
    await db.flush()
    await audit_log.record(db, actor, action, key.owner, key=key.id, **details)
