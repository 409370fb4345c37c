"""Proof of an address, and changes of passwords and addresses.

Every change invalidates the links in the account's earlier mails, and its owner is notified. A new
password also ends the other sessions.
"""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import account_tokens, sessions
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.accounts import is_usable
from app.platform.auth.models import Account
from app.platform.base.errors import Conflict
from app.platform.settings import PlatformSettings


async def send_verification(db: AsyncSession, mails: AccountMails, email: str) -> None:
    """Send a link to an address whose account is not verified; to others, nothing."""
    statement = select(Account.id).where(*is_usable(email), Account.verified_at.is_(None))
    account_id = (await db.execute(statement)).scalar_one_or_none()
    purpose: account_tokens.Purpose = "verify_email"
    await mails.send_link(db, purpose, purpose, account_id, email, at_once=False)


async def verify_email(db: AsyncSession, settings: PlatformSettings, token: str) -> UUID:
    """Mark an address as verified; raises ``InvalidToken``."""
    proof = await account_tokens.consume(db, settings, "verify_email", token)
    statement = update(Account).where(Account.id == proof.account_id, *is_usable(proof.email))
    found = await db.execute(statement.values(verified_at=func.now()).returning(Account.id))
    if found.one_or_none() is None:
        raise account_tokens.InvalidToken
    return proof.account_id


async def send_reset(db: AsyncSession, mails: AccountMails, email: str) -> None:
    """Send a link to an address that has an account; to others, nothing."""
    account_id = (await db.execute(select(Account.id).where(*is_usable(email)))).scalar()
    purpose: account_tokens.Purpose = "reset_password"
    await mails.send_link(db, purpose, purpose, account_id, email, at_once=False)


async def reset_password(
    db: AsyncSession, mails: AccountMails, token: str, password_hash: str
) -> UUID:
    """Set a password by a token; raises ``InvalidToken``. All sessions end, and none begins."""
    proof = await account_tokens.consume(db, mails.settings, "reset_password", token)
    statement = update(Account).where(Account.id == proof.account_id, *is_usable(proof.email))
    verified = func.coalesce(Account.verified_at, func.now())
    statement = statement.values(password_hash=password_hash, verified_at=verified)
    if (await db.execute(statement.returning(Account.id))).one_or_none() is None:
        raise account_tokens.InvalidToken
    await _password_changed(db, mails, proof.account_id, proof.email)
    return proof.account_id


async def change_password(
    db: AsyncSession, mails: AccountMails, account: Account, session_id: UUID, password_hash: str
) -> None:
    """Set a password; all sessions end but the one that asked for it."""
    statement = update(Account).where(Account.id == account.id)
    await db.execute(statement.values(password_hash=password_hash))
    await _password_changed(db, mails, account.id, account.email, but=session_id)


async def _password_changed(
    db: AsyncSession,
    mails: AccountMails,
    account_id: UUID,
    email: str,
    but: UUID | None = None,
) -> None:
    await sessions.revoke_all(db, account_id, but)
    await account_tokens.revoke_all(db, account_id)
    await mails.send_notice(db, "password_changed", email)


async def send_change(db: AsyncSession, mails: AccountMails, account: Account, email: str) -> None:
    """Send a link to the new address of an account; to one that is in use, nothing."""
    statement = select(Account.id).where(func.lower(Account.email) == func.lower(email))
    is_free = (await db.execute(statement)).scalar() is None
    purpose: account_tokens.Purpose = "change_email"
    account_id = account.id if is_free else None
    await mails.send_link(db, purpose, purpose, account_id, email, at_once=False)


async def change_email(db: AsyncSession, mails: AccountMails, token: str) -> UUID:
    """Set a new address by a token that it received; raises ``InvalidToken``, ``Conflict``."""
    proof = await account_tokens.consume(db, mails.settings, "change_email", token)
    statement = select(Account.email).where(
        Account.id == proof.account_id, Account.disabled_at.is_(None)
    )
    old = (await db.execute(statement.with_for_update())).scalar()
    if old is None:
        raise account_tokens.InvalidToken
    changed = update(Account).where(Account.id == proof.account_id)
    try:
        await db.execute(changed.values(email=proof.email, verified_at=func.now()))
    except IntegrityError:
        raise Conflict("This address belongs to another account by now.") from None
    await account_tokens.revoke_all(db, proof.account_id)
    await mails.send_notice(db, "email_changed", old)
    return proof.account_id
