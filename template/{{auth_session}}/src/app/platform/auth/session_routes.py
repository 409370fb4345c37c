"""Routes that open and end sessions: with cookies for browsers, with a token for other clients."""

from contextlib import suppress
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import cookies, logins, sessions, tokens
from app.platform.auth.account_routes import AccountsDep, PasswordForm
from app.platform.auth.accounts import Accounts, Identity
from app.platform.auth.csrf import Csrf
from app.platform.auth.current import CurrentUser
from app.platform.base.errors import Forbidden, TooManyRequests, Unauthorized
from app.platform.data.database import Database, SessionDep
from app.platform.http import audit
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel
from app.platform.settings import PlatformSettings

router = APIRouter()


class CsrfToken(ResponseModel):
    """``csrf_token``: the value of the header `X-CSRF-Token`, which unsafe methods need."""

    csrf_token: str = Field(examples=["csrf_example"])


class Token(ResponseModel):
    """``expires_in``: seconds until the session ends, even if it is in use."""

    access_token: str = Field(examples=["st_example"])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(examples=[1_209_600])
    scope: str = Field(examples=["admin"])


@router.post("/login", responses=responses(Unauthorized, Forbidden, TooManyRequests))
async def login(
    form: Annotated[PasswordForm, Form()],
    request: Request,
    response: Response,
    accounts: AccountsDep,
) -> CsrfToken:
    """Open a session for a browser: the response sets its cookies.

    The browser's previous session ends, which prevents session fixation.
    """
    csrf = _csrf(request)
    csrf.check_origin(request)  # login CSRF: another site could log the visitor in as somebody else
    _, session_id, token = await _open(request, accounts, form, cookies.session_token(request))
    csrf_token = csrf.token(session_id)
    cookies.set_cookies(response, request.app.state.settings, token, csrf_token)
    response.headers["Cache-Control"] = "no-store"
    return CsrfToken(csrf_token=csrf_token)


@router.post("/token", responses=responses(Unauthorized, TooManyRequests))
async def token(
    form: Annotated[PasswordForm, Form()],
    request: Request,
    response: Response,
    accounts: AccountsDep,
) -> Token:
    """Open a session for another client, which sends the token as `Authorization: Bearer ...`."""
    settings: PlatformSettings = request.app.state.settings
    identity, _, secret = await _open(request, accounts, form)
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=secret,
        expires_in=settings.session_lifetime,
        scope=" ".join(sorted(identity.scopes)),
    )


@router.get("/csrf", responses=responses(Unauthorized))
async def csrf(user: CurrentUser, request: Request, response: Response) -> CsrfToken:
    """The value of the header `X-CSRF-Token`, for pages that cannot read the cookie."""
    response.headers["Cache-Control"] = "no-store"
    return CsrfToken(csrf_token=_csrf(request).token(UUID(user.credential)))


@router.post("/logout", status_code=204, responses=responses(Unauthorized, Forbidden))
async def logout(user: CurrentUser, request: Request, response: Response, db: SessionDep) -> None:
    """End this session; its token stops working immediately."""
    await sessions.revoke(db, UUID(user.credential))
    cookies.delete_cookies(response, request.app.state.settings)
    audit.succeeded(request, "logout", user.id)


async def _open(
    request: Request, accounts: Accounts, form: PasswordForm, previous: str | None = None
) -> tuple[Identity, UUID, str]:
    """Open a session and end the ``previous`` one; returns the account, session id and token."""
    identity = await accounts.authenticate(request, form.username, form.password)
    database: Database = request.app.state.db
    secret = sessions.new_secret()
    async with database.transaction() as db:
        session_id = await logins.open_session(db, request, identity, secret)
        if previous:
            await _end(db, previous)
    audit.succeeded(request, "login", str(identity.id))
    return identity, session_id, tokens.encode(session_id, secret)


async def _end(db: AsyncSession, token: str) -> None:
    """End the session of a token; an invalid token is ignored."""
    with suppress(ValueError):
        session_id, secret = tokens.decode(token)
        session = await sessions.get_for_update(db, session_id)
        if session and sessions.matches(session, secret):
            await sessions.revoke(db, session_id)


def _csrf(request: Request) -> Csrf:
    csrf: Csrf = request.app.state.csrf
    return csrf
