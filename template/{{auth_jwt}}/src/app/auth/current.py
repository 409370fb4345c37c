"""The caller, as a dependency: one query for each request, however many ask."""

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Security
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import bindparam, select
from starlette.requests import HTTPConnection

from app import context
from app.auth.models import Account, LoginSession
from app.auth.sessions import alive
from app.auth.tokens import INVALID, Tokens
from app.db import Reader
from app.errors import Forbidden, Unauthorized

bearer = OAuth2PasswordBearer("/api/v1/auth/login", scheme_name="bearer", auto_error=False)

SCOPES = (
    select(Account.scopes)
    .join(LoginSession, LoginSession.account_id == Account.id)
    .where(LoginSession.id == bindparam("session"), alive())
    .where(Account.id == bindparam("account"), Account.disabled_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling, and what they may do."""

    id: str
    scopes: frozenset[str]
    session_id: UUID


async def current_user(
    connection: HTTPConnection, token: Annotated[str | None, Depends(bearer)]
) -> User:
    """Return the caller; raise ``Unauthorized`` if there is no valid token of a living session.

    ``require`` gives FastAPI other scopes for the same dependency, which it would then call again:
    so the request keeps the answer.
    """
    user: User | None = getattr(connection.state, "user", None)
    if user is None:
        user = await _look_up(connection, token)
        connection.state.user = user
        context.current().user_id = user.id
    return user


async def _look_up(connection: HTTPConnection, token: str | None) -> User:
    if not token:
        raise Unauthorized("Send an access token.", headers={"WWW-Authenticate": "Bearer"})
    tokens: Tokens = connection.app.state.tokens
    reader: Reader = connection.app.state.reader
    access = tokens.read_access(token)
    row = await reader.first(SCOPES, session=access.session_id, account=access.account_id)
    if row is None:
        raise Unauthorized("This session has ended.", headers=INVALID)
    return User(str(access.account_id), access.scopes.intersection(row.scopes), access.session_id)


CurrentUser = Annotated[User, Depends(current_user)]


def require(*scopes: str) -> Any:
    """Return a dependency that yields the caller if they have all of ``scopes``.

    Raises ``Forbidden`` otherwise. It goes into a parameter, ``Annotated[User, require("admin")]``,
    or into the ``dependencies`` of a route or router.
    """

    async def check(user: CurrentUser) -> User:
        if not user.scopes.issuperset(scopes):
            needed = " ".join(scopes)
            challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
            raise Forbidden(f"This needs: {needed}.", headers={"WWW-Authenticate": challenge})
        return user

    return Security(check, scopes=scopes)


async def user_id(user: CurrentUser) -> str:
    """Count by caller: ``limit("exports", "10/hour", by=user_id)``."""
    return user.id
