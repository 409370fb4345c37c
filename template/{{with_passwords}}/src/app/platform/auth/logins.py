"""Sessions that logins open, and the notice to the owner of one from a new client."""

from uuid import UUID

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log, sessions
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.accounts import BAD_CREDENTIALS, Identity
from app.platform.auth.audit_log import actor_of
from app.platform.auth.models import Account
from app.platform.base.errors import Unauthorized
from app.platform.http import rate_limit
from app.platform.settings import PlatformSettings

MAX_USER_AGENT = 200  # characters that are kept


async def open_session(
    db: AsyncSession, request: Request, identity: Identity, secret: bytes
) -> UUID:
    """Open a session; tell the owner if the account has never been used from this client."""
    # FOR SHARE: a change of the password waits for this session and ends it, or is seen here.
    unchanged = select(Account.id).where(
        Account.id == identity.id,
        Account.password_hash == identity.password_hash,
        Account.disabled_at.is_(None),
    )
    if (await db.execute(unchanged.with_for_update(read=True))).first() is None:
        raise Unauthorized(BAD_CREDENTIALS)
    settings: PlatformSettings = request.app.state.settings
    agent = request.headers.get("user-agent", "")
    agent = "".join(filter(str.isprintable, agent))[:MAX_USER_AGENT]
    session_id = await sessions.open_session(
        db, identity.id, secret, settings, identity.client_hash, agent
    )
    if identity.is_new_client:
        owner = str(identity.id)
        await audit_log.record(db, actor_of(request, owner), "login_new_client", owner)
    if identity.is_new_client and settings.login_notices:
        mails: AccountMails = request.app.state.account_mails
        await mails.send_notice(
            db,
            "new_login",
            identity.email,
            client=rate_limit.client_ip(request),
            program=agent or "an unknown program",
        )
    return session_id
