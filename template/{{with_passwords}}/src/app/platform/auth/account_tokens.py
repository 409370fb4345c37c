"""Tokens of links in mails: each for one purpose, valid once and for a short time.

A row has the token's id. The token is the id, signed with a key that is not in the database, and is
computed when the mail is sent.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth.models import AccountToken
from app.platform.base.errors import BadRequest
from app.platform.data import mail
from app.platform.settings import PlatformSettings

Purpose = Literal["verify_email", "reset_password", "change_email"]
MAX_DELETED = 100  # expired tokens that one request deletes


class InvalidToken(BadRequest):
    """The token of a link is not valid, for this purpose or any more."""

    code = "invalid_token"

    def __init__(self) -> None:
        super().__init__("This link is not valid any more; ask for a new one.")


@dataclass(frozen=True, slots=True)
class Proof:
    """The claim of a token: its bearer reads the mails to ``email``."""

    account_id: UUID
    email: str


async def issue(
    db: AsyncSession, account_id: UUID | None, purpose: Purpose, email: str, seconds: int
) -> bytes:
    """Create a token that works for ``seconds``; return what ``mail.send`` has to sign.

    Earlier ones remain: otherwise a stranger could make the owner's links useless. Without an
    account it does the same work, and the token never works.
    """
    expired = select(AccountToken.id).where(AccountToken.expires_at <= func.now())
    expired = expired.limit(MAX_DELETED).with_for_update(skip_locked=True)
    await db.execute(delete(AccountToken).where(AccountToken.id.in_(expired)))
    token_id = uuid4()
    values = {"id": token_id, "account_id": account_id, "purpose": purpose, "email": email}
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    await db.execute(insert(AccountToken).values(**values, expires_at=expires_at))
    return token_id.bytes


def read_id(settings: PlatformSettings, token: str) -> UUID:
    """The id in a token; raises ``InvalidToken`` if it was never issued."""
    try:
        return UUID(bytes=mail.read_signed(settings, token))
    except ValueError:
        raise InvalidToken from None


async def consume(
    db: AsyncSession, settings: PlatformSettings, purpose: Purpose, token: str
) -> Proof:
    """Use a token up; raises ``InvalidToken`` unless it is valid for ``purpose``, and unused."""
    token_id = read_id(settings, token)
    statement = delete(AccountToken).where(
        AccountToken.id == token_id,
        AccountToken.purpose == purpose,
        AccountToken.expires_at > func.now(),
        AccountToken.account_id.is_not(None),
    )
    returning = statement.returning(AccountToken.account_id, AccountToken.email)
    row = (await db.execute(returning)).one_or_none()
    if row is None or row.account_id is None:
        raise InvalidToken
    return Proof(row.account_id, row.email)


async def revoke_all(db: AsyncSession, account_id: UUID) -> None:
    """Make all links of an account useless: its password or its address has changed."""
    await db.execute(delete(AccountToken).where(AccountToken.account_id == account_id))
