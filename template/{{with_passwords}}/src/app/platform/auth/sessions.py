"""Login sessions: opened by a login; ended by a logout, by inactivity or by age.

Each is a row, so that its revocation takes effect with the next request.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth.models import LoginSession
from app.platform.settings import PlatformSettings

SECRET_BYTES = 32
KNOWN_CLIENT_LIFETIME = timedelta(days=30)  # since its last login


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def hash_secret(secret: bytes) -> bytes:
    """The stored hash of a secret: 256 random bits need no slow hash function."""
    return hashlib.sha256(secret).digest()


def matches(session: LoginSession, secret: bytes) -> bool:
    """Whether ``secret`` is the session's current one."""
    return hmac.compare_digest(session.secret_hash, hash_secret(secret))


def is_active() -> ColumnElement[bool]:
    """The condition that a session has not ended."""
    return LoginSession.revoked_at.is_(None) & (LoginSession.expires_at > func.now())


def expiry(settings: PlatformSettings) -> datetime:
    """The time at which a session that is used now, and not again, expires."""
    return datetime.now(UTC) + timedelta(seconds=settings.session_idle_timeout)


async def open_session(
    db: AsyncSession,
    account_id: UUID,
    secret: bytes,
    settings: PlatformSettings,
    client_hash: bytes | None = None,
    user_agent: str = "",
) -> UUID:
    """Create a session, and delete the account's expired ones.

    Those of the last 30 days are kept: they tell from where the account has logged in.
    """
    await db.execute(
        delete(LoginSession).where(
            LoginSession.account_id == account_id,
            LoginSession.ends_at < func.now(),
            LoginSession.created_at < func.now() - KNOWN_CLIENT_LIFETIME,
        )
    )
    ends_at = datetime.now(UTC) + timedelta(seconds=settings.session_lifetime)
    session = LoginSession(
        id=uuid4(),
        account_id=account_id,
        secret_hash=hash_secret(secret),
        client_hash=client_hash,
        user_agent=user_agent,
        expires_at=min(expiry(settings), ends_at),
        ends_at=ends_at,
    )
    db.add(session)
    await db.flush()
    return session.id


async def get_for_update(db: AsyncSession, session_id: UUID) -> LoginSession | None:
    """An active session, locked (``FOR UPDATE``); ``None`` if it has ended."""
    statement = select(LoginSession).where(LoginSession.id == session_id, is_active())
    return (await db.execute(statement.with_for_update())).scalar_one_or_none()


async def revoke(db: AsyncSession, session_id: UUID) -> UUID | None:
    """Revoke a session; the id of its account, or ``None`` if it was revoked before."""
    statement = (
        update(LoginSession)
        .where(LoginSession.id == session_id, LoginSession.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(LoginSession.account_id)
    )
    return (await db.execute(statement)).scalar_one_or_none()


async def revoke_all(db: AsyncSession, account_id: UUID, but: UUID | None = None) -> None:
    """Revoke every session of an account, or every one ``but`` one."""
    statement = update(LoginSession).where(
        LoginSession.account_id == account_id,
        LoginSession.revoked_at.is_(None),
        LoginSession.id.is_distinct_from(but),
    )
    await db.execute(statement.values(revoked_at=func.now()))
