"""Routes that give, renew and take away tokens."""

import hmac
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import sessions
from app.auth.account_routes import AllAccounts, Login
from app.auth.current import CurrentUser
from app.auth.identity import NotBelieved
from app.auth.models import Account
from app.auth.tokens import Access, Tokens
from app.platform.base.errors import TooManyRequests, Unauthorized
from app.platform.data.database import Database, SessionDep
from app.platform.http import audit
from app.platform.http.problems import responses
from app.settings import Settings

NOT_VALID = "The refresh token is not valid."

router = APIRouter()


class Refresh(BaseModel):
    refresh_token: SecretStr = Field(max_length=256)


class TokenPair(BaseModel):
    """``expires_in``: seconds that the access token is good for. The refresh token works once."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int
    scope: str


@router.post("/login", responses=responses(Unauthorized, TooManyRequests))
async def login(
    form: Annotated[Login, Form()], request: Request, response: Response, accounts: AllAccounts
) -> TokenPair:
    """Trade an e-mail address and a password for tokens."""
    identity = await accounts.authenticate(request, form.username, form.password)
    secret = sessions.new_secret()
    async with _database(request).transaction() as db:
        settings: Settings = request.app.state.settings
        session_id = await sessions.open_session(db, identity.id, secret, settings)
    audit.succeeded(request, "login", str(identity.id))
    return _pair(request, response, Access(identity.id, session_id, identity.scopes), secret)


@router.post("/refresh", responses=responses(Unauthorized))
async def refresh(body: Refresh, request: Request, response: Response) -> TokenPair:
    """Trade a refresh token for new tokens. Do it one at a time: each token works once.

    Of two at once one wins, and the session ends: the server can't tell a client that hurries from
    a thief with a copy, and a grace period would be the thief's.
    """
    try:
        session_id, secret = _tokens(request).read_refresh(body.refresh_token.get_secret_value())
    except ValueError:
        raise NotBelieved("refresh", NOT_VALID) from None
    new_secret = sessions.new_secret()
    async with _database(request).transaction() as db:
        access = await _renew(request, db, session_id, secret, new_secret)
    if access is None:  # only now, so that the session's end is committed
        raise NotBelieved("refresh", NOT_VALID)
    return _pair(request, response, access, new_secret)


@router.post("/logout", status_code=204, responses=responses(Unauthorized))
async def logout(user: CurrentUser, request: Request, db: SessionDep) -> None:
    """End this session: its tokens are worth nothing from now on."""
    await sessions.revoke(db, UUID(user.credential))
    audit.succeeded(request, "logout", user.id)


async def _renew(
    request: Request, db: AsyncSession, session_id: UUID, secret: bytes, new_secret: bytes
) -> Access | None:
    """Replace the secret of a session; end it if the given one was replaced before."""
    session = await sessions.lock(db, session_id)
    if session is None:
        return None
    if not hmac.compare_digest(session.secret_hash, sessions.fingerprint(secret)):
        await sessions.revoke(db, session_id)
        audit.refused(request, "refresh", "reused", str(session.account_id))
        return None
    statement = select(Account.scopes).where(
        Account.id == session.account_id, Account.disabled_at.is_(None)
    )
    scopes = (await db.execute(statement)).scalar_one_or_none()
    if scopes is None:
        return None
    session.secret_hash = sessions.fingerprint(new_secret)
    session.expires_at = min(sessions.expiry(request.app.state.settings), session.ends_at)
    return Access(session.account_id, session_id, frozenset(scopes))


def _pair(request: Request, response: Response, access: Access, secret: bytes) -> TokenPair:
    tokens = _tokens(request)
    response.headers["Cache-Control"] = "no-store"
    return TokenPair(
        access_token=tokens.access(access),
        refresh_token=tokens.refresh(access.session_id, secret),
        expires_in=tokens.lifetime,
        scope=" ".join(sorted(access.scopes)),
    )


def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


def _database(request: Request) -> Database:
    database: Database = request.app.state.db
    return database
