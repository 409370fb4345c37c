"""Sessions: opened by a login, ended by a logout, by disuse or by age.

Each is a row, so that ending one is felt by the very next request.
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.models import LoginSession
from app.settings import Settings

SECRET = 32  # random bytes


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET)


def fingerprint(secret: bytes) -> bytes:
    """Return what is stored of a secret. 256 random bits need no slow hash."""
    return hashlib.sha256(secret).digest()


def alive() -> ColumnElement[bool]:
    """Select the sessions that have not ended."""
    return LoginSession.revoked_at.is_(None) & (LoginSession.expires_at > func.now())


def expiry(settings: Settings) -> datetime:
    """Return until when a session that is used now lives, if it isn't used again."""
    return datetime.now(UTC) + timedelta(seconds=settings.session_idle_timeout)


async def open_session(
    db: AsyncSession, account_id: UUID, secret: bytes, settings: Settings
) -> UUID:
    """Store a new session; forget those of the same account that are over anyway."""
    await db.execute(
        delete(LoginSession).where(
            LoginSession.account_id == account_id, LoginSession.ends_at < func.now()
        )
    )
    ends_at = datetime.now(UTC) + timedelta(seconds=settings.session_lifetime)
    session = LoginSession(
        id=uuid4(),
        account_id=account_id,
        secret_hash=fingerprint(secret),
        expires_at=min(expiry(settings), ends_at),
        ends_at=ends_at,
    )
    db.add(session)
    await db.flush()
    return session.id


async def lock(db: AsyncSession, session_id: UUID) -> LoginSession | None:
    """Return a session that has not ended, so that no other transaction changes it meanwhile."""
    statement = select(LoginSession).where(LoginSession.id == session_id, alive())
    return (await db.execute(statement.with_for_update())).scalar_one_or_none()


async def revoke(db: AsyncSession, session_id: UUID) -> UUID | None:
    """End a session; return the id of its account, or ``None`` if it had ended before."""
    statement = (
        update(LoginSession)
        .where(LoginSession.id == session_id, LoginSession.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(LoginSession.account_id)
    )
    return (await db.execute(statement)).scalar_one_or_none()


async def revoke_all(db: AsyncSession, account_id: UUID) -> None:
    """End every session of an account."""
    await db.execute(
        update(LoginSession)
        .where(LoginSession.account_id == account_id, LoginSession.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
