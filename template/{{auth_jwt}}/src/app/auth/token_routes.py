"""Routes that issue, refresh and revoke tokens."""

import hmac
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import sessions
from app.auth.account_routes import AccountsDep, Login
from app.auth.current import CurrentUser
from app.auth.identity import InvalidCredentials
from app.auth.models import Account
from app.auth.tokens import AccessClaims, Tokens
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
    """``expires_in``: lifetime of the access token in seconds. A refresh token works once."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int
    scope: str


@router.post("/login", responses=responses(Unauthorized, TooManyRequests))
async def login(
    form: Annotated[Login, Form()], request: Request, response: Response, accounts: AccountsDep
) -> TokenPair:
    """Log in with an e-mail address and a password."""
    identity = await accounts.authenticate(request, form.username, form.password)
    secret = sessions.new_secret()
    async with _database(request).transaction() as db:
        settings: Settings = request.app.state.settings
        session_id = await sessions.open_session(db, identity.id, secret, settings)
    audit.succeeded(request, "login", str(identity.id))
    return _pair(request, response, AccessClaims(identity.id, session_id, identity.scopes), secret)


@router.post("/refresh", responses=responses(Unauthorized))
async def refresh(body: Refresh, request: Request, response: Response) -> TokenPair:
    """Exchange a refresh token for new tokens. Do not refresh concurrently: each token works once.

    If a token is used twice, the session ends: the server cannot tell a hasty client from a thief
    with a copy of the token.
    """
    try:
        session_id, secret = _tokens(request).read_refresh(body.refresh_token.get_secret_value())
    except ValueError:
        raise InvalidCredentials("refresh", NOT_VALID) from None
    new_secret = sessions.new_secret()
    async with _database(request).transaction() as db:
        access = await _renew(request, db, session_id, secret, new_secret)
    if access is None:  # after the transaction, so that the revocation is committed
        raise InvalidCredentials("refresh", NOT_VALID)
    return _pair(request, response, access, new_secret)


@router.post("/logout", status_code=204, responses=responses(Unauthorized))
async def logout(user: CurrentUser, request: Request, db: SessionDep) -> None:
    """End this session; its tokens stop working immediately."""
    await sessions.revoke(db, UUID(user.credential))
    audit.succeeded(request, "logout", user.id)


async def _renew(
    request: Request, db: AsyncSession, session_id: UUID, secret: bytes, new_secret: bytes
) -> AccessClaims | None:
    """Rotate the secret of a session; revoke the session if the given secret was used before."""
    session = await sessions.get_for_update(db, session_id)
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
    return AccessClaims(session.account_id, session_id, frozenset(scopes))


def _pair(request: Request, response: Response, access: AccessClaims, secret: bytes) -> TokenPair:
    tokens = _tokens(request)
    response.headers["Cache-Control"] = "no-store"
    return TokenPair(
        access_token=tokens.issue_access(access),
        refresh_token=tokens.issue_refresh(access.session_id, secret),
        expires_in=tokens.lifetime,
        scope=" ".join(sorted(access.scopes)),
    )


def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


def _database(request: Request) -> Database:
    database: Database = request.app.state.db
    return database
