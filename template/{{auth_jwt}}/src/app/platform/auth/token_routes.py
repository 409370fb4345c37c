"""Routes that issue, refresh and revoke tokens."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field, SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log, grants, logins, sessions
from app.platform.auth.account_routes import AccountsDep, PasswordForm
from app.platform.auth.current import CurrentUser
from app.platform.auth.identity import InvalidCredentials
from app.platform.auth.models import Account
from app.platform.auth.tokens import AccessClaims, Tokens
from app.platform.base.errors import TooManyRequests, Unauthorized
from app.platform.data.database import Database, SessionDep
from app.platform.http import audit
from app.platform.http.problems import responses
from app.platform.http.schemas import ENCODABLE, RequestModel, ResponseModel, SecretLength
from app.platform.settings import PlatformSettings

NOT_VALID = "The refresh token is not valid."

router = APIRouter()


class Refresh(RequestModel):
    refresh_token: Annotated[
        SecretStr, Field(examples=["rt_example"]), SecretLength(0, 256), ENCODABLE
    ]


class TokenPair(ResponseModel):
    """``expires_in``: seconds until the access token expires. A refresh token works once."""

    access_token: str = Field(examples=["at_example"])
    refresh_token: str = Field(examples=["rt_example"])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(examples=[600])
    scope: str = Field(examples=["admin"])


@dataclass(frozen=True, slots=True)
class _Issued:
    """The claims of a token pair, the secret of its refresh token, and the time of its issue."""

    access: AccessClaims
    secret: bytes
    at: datetime


@router.post("/login", responses=responses(Unauthorized, TooManyRequests))
async def login(
    form: Annotated[PasswordForm, Form()],
    request: Request,
    response: Response,
    accounts: AccountsDep,
) -> TokenPair:
    """Log in with an e-mail address and a password."""
    identity = await accounts.authenticate(request, form.username, form.password)
    secret = sessions.new_secret()
    async with _database(request).transaction() as db:
        session_id = await logins.open_session(db, request, identity, secret)
    audit.succeeded(request, "login", str(identity.id))
    access = AccessClaims(identity.id, session_id, identity.scopes)
    return _pair(request, response, _Issued(access, secret, datetime.now(UTC)))


@router.post("/refresh", responses=responses(Unauthorized))
async def refresh(body: Refresh, request: Request, response: Response) -> TokenPair:
    """Exchange a refresh token for new tokens.

    A refresh that is repeated within a few seconds, by another tab or after a lost response, gets
    the same tokens again. Any later reuse ends the session: the token may be stolen.
    """
    try:
        session_id, secret = _tokens(request).read_refresh(body.refresh_token.get_secret_value())
    except ValueError:
        raise InvalidCredentials("refresh", NOT_VALID) from None
    async with _database(request).transaction() as db:
        issued = await _rotate(request, db, session_id, secret)
    if issued is None:  # after the transaction, so that the revocation is committed
        raise InvalidCredentials("refresh", NOT_VALID)
    return _pair(request, response, issued)


@router.post("/logout", status_code=204, responses=responses(Unauthorized))
async def logout(user: CurrentUser, request: Request, db: SessionDep) -> None:
    """End this session; its tokens stop working immediately."""
    await sessions.revoke(db, UUID(user.credential))
    audit.succeeded(request, "logout", user.id)


async def _rotate(
    request: Request, db: AsyncSession, session_id: UUID, secret: bytes
) -> _Issued | None:
    """Replace the secret of a session; revoke the session if the given secret was used before.

    A repeated use of the last secret within ``REFRESH_REUSE_INTERVAL`` changes nothing: it yields
    what the first use did.
    """
    session = await sessions.get_for_update(db, session_id)
    if session is None:
        return None
    settings: PlatformSettings = request.app.state.settings
    now = datetime.now(UTC)
    next_secrets = _tokens(request).next_secrets(session_id, secret)
    next_secret = next((s for s in next_secrets if sessions.matches(session, s)), next_secrets[0])
    repeated_at = session.refreshed_at if sessions.matches(session, next_secret) else None
    if repeated_at:
        age = abs((now - repeated_at).total_seconds())  # other replicas' clocks may be ahead
        valid = age < settings.refresh_reuse_interval
    else:
        valid = sessions.matches(session, secret)
    if not valid:
        await sessions.revoke(db, session_id)
        owner = str(session.account_id)
        audit.refused(request, "refresh", "reused", owner)
        actor = audit_log.actor_of(request, owner)  # whoever has the token: perhaps not the owner
        await audit_log.record(db, actor, "refresh_reused", owner, session=str(session_id))
        return None
    statement = select(Account.scopes, grants.of_account()).where(
        Account.id == session.account_id, Account.disabled_at.is_(None)
    )
    row = (await db.execute(statement)).one_or_none()
    if row is None:
        return None
    if repeated_at:
        audit.succeeded(request, "refresh_repeated", str(session.account_id))
    else:
        session.secret_hash = sessions.hash_secret(next_secret)
        session.refreshed_at = now
        session.expires_at = min(sessions.expiry(settings), session.ends_at)
    scopes = grants.scopes_of(request.app.state.roles, row.roles).union(row.scopes)
    access = AccessClaims(session.account_id, session_id, scopes)
    return _Issued(access, next_secret, repeated_at or now)


def _pair(request: Request, response: Response, issued: _Issued) -> TokenPair:
    tokens, access = _tokens(request), issued.access
    age = int((datetime.now(UTC) - issued.at).total_seconds())
    response.headers["Cache-Control"] = "no-store"
    return TokenPair(
        access_token=tokens.issue_access(access, issued.secret, issued.at),
        refresh_token=tokens.issue_refresh(access.session_id, issued.secret),
        expires_in=tokens.lifetime - max(age, 0),
        scope=" ".join(sorted(access.scopes)),
    )


def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


def _database(request: Request) -> Database:
    database: Database = request.app.state.db
    return database
