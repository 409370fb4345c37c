"""Authentication by the token of an active session, in a cookie or the ``Authorization`` header."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from fastapi.security import APIKeyCookie, OAuth2PasswordBearer
from sqlalchemy import bindparam, select, update
from starlette.requests import HTTPConnection

from app.platform.auth import cookies, grants, sessions, tokens
from app.platform.auth.csrf import HEADER, Csrf
from app.platform.auth.identity import InvalidCredentials, User
from app.platform.auth.models import Account, LoginSession
from app.platform.data.database import Database, ReadSession
from app.platform.http.conditional import PRIVATE
from app.platform.settings import PlatformSettings

MISSING_DETAIL = "Log in first."
USE_INTERVAL = 60.0  # seconds between two updates of a session's expiry

_bearer = OAuth2PasswordBearer(
    "/api/v1/auth/token",
    scheme_name="bearer",
    description="For clients other than browsers; no CSRF token is needed.",
    auto_error=False,
)
_cookie = APIKeyCookie(
    name=cookies.PREFIX + cookies.SESSION,
    scheme_name="cookie",
    description=f"For browsers. Unsafe methods also need the header `{HEADER}`. Outside of"
    f" production the cookie is called `{cookies.SESSION}`.",
    auto_error=False,
)

SESSION = (
    select(
        Account.id,
        Account.scopes,
        grants.of_account(),
        LoginSession.secret_hash,
        LoginSession.expires_at,
        LoginSession.ends_at,
    )
    .join(LoginSession, LoginSession.account_id == Account.id)
    .where(LoginSession.id == bindparam("session"), sessions.is_active())
    .where(Account.disabled_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """The token of a request, and whether it came in the cookie."""

    token: str
    by_cookie: bool


async def _presented_token(
    connection: HTTPConnection,
    response: Response,
    token: Annotated[str | None, Depends(_bearer)],
    _: Annotated[str | None, Depends(_cookie)],  # for the API document; the name may differ
) -> PresentedToken | None:
    if token:
        return PresentedToken(token, by_cookie=False)
    if token := cookies.session_token(connection):
        # Shared caches do not store responses to `Authorization`; for a cookie, tell them.
        response.headers["Cache-Control"] = PRIVATE
        return PresentedToken(token, by_cookie=True)
    return None


Credential = Annotated[PresentedToken | None, Depends(_presented_token)]


def token_of(presented: PresentedToken) -> str:
    """The secret text of a credential."""
    return presented.token


async def authenticate(connection: HTTPConnection, presented: PresentedToken) -> User:
    """The account of the session.

    Raises ``InvalidCredentials`` if the session has ended, ``Forbidden`` for a cross-site request.
    """
    try:
        session_id, secret = tokens.decode(presented.token)
    except ValueError:
        raise InvalidCredentials("invalid", "The session token is malformed.") from None
    reader: ReadSession = connection.app.state.read_session
    row = await reader.first(SESSION, session=session_id)
    if row is None or not hmac.compare_digest(row.secret_hash, sessions.hash_secret(secret)):
        raise InvalidCredentials("ended", "This session has ended.")
    if presented.by_cookie:
        csrf: Csrf = connection.app.state.csrf
        csrf.check(connection, session_id)
    await _record_use(connection, session_id, row.expires_at, row.ends_at)
    scopes = grants.scopes_of(connection.app.state.roles, row.roles).union(row.scopes)
    return User(str(row.id), scopes, str(session_id))


async def _record_use(
    connection: HTTPConnection, session_id: UUID, expires_at: datetime, ends_at: datetime
) -> None:
    """Extend the idle timeout, at most once a minute."""
    settings: PlatformSettings = connection.app.state.settings
    database: Database = connection.app.state.db
    until = min(sessions.expiry(settings), ends_at)
    if until - expires_at < timedelta(
        seconds=min(USE_INTERVAL, settings.session_idle_timeout / 10)
    ):
        return
    # Of concurrent requests one writes, and none waits for the transaction of another.
    session = select(LoginSession.id).where(LoginSession.id == session_id)
    session = session.with_for_update(key_share=True, skip_locked=True)
    statement = update(LoginSession).where(LoginSession.id.in_(session))
    await database.execute(statement.values(expires_at=until))
