"""Authentication by an access token of an active session."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import bindparam, select
from starlette.requests import HTTPConnection

from app.platform.auth import grants
from app.platform.auth.identity import InvalidCredentials, User
from app.platform.auth.models import Account, LoginSession
from app.platform.auth.sessions import is_active
from app.platform.auth.tokens import Tokens
from app.platform.data.database import ReadSession

MISSING_DETAIL = "Send an access token."

_bearer = OAuth2PasswordBearer("/api/v1/auth/login", scheme_name="bearer", auto_error=False)
Credential = Annotated[str | None, Depends(_bearer)]

SCOPES = (
    select(Account.scopes, grants.of_account())
    .join(LoginSession, LoginSession.account_id == Account.id)
    .where(LoginSession.id == bindparam("session"), is_active())
    .where(Account.id == bindparam("account"), Account.disabled_at.is_(None))
)


def token_of(token: str) -> str:
    """The secret text of a credential."""
    return token


async def authenticate(connection: HTTPConnection, token: str) -> User:
    """The caller of a token; raises ``InvalidCredentials`` if token or session is not valid."""
    tokens: Tokens = connection.app.state.tokens
    reader: ReadSession = connection.app.state.read_session
    roles: grants.Roles = connection.app.state.roles
    access = tokens.read_access(token)
    row = await reader.first(SCOPES, session=access.session_id, account=access.account_id)
    if row is None:
        raise InvalidCredentials("ended", "This session has ended.")
    # Roles are those of now; of the account's own scopes, the token has those of its issue.
    scopes = access.scopes.intersection(row.scopes) | grants.scopes_of(roles, row.roles)
    return User(str(access.account_id), scopes, str(access.session_id))
