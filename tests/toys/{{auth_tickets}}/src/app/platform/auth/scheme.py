"""How callers show who they are: a ticket that nobody handed back."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.requests import HTTPConnection

from app.platform.auth import tickets
from app.platform.auth.identity import InvalidCredentials, User

MISSING_DETAIL = "Send a ticket."

_bearer = HTTPBearer(scheme_name="ticket", auto_error=False)


async def _sent(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    return credentials.credentials if credentials else None


Credential = Annotated[str | None, Depends(_sent)]


def token_of(sealed: str) -> str:
    return sealed


async def authenticate(connection: HTTPConnection, sealed: str) -> User:
    ticket = tickets.read(connection.app.state.settings, sealed)
    if await connection.app.state.redis.exists(f"handed-back:{ticket.id}"):
        raise InvalidCredentials("handed back", "The ticket is no longer good.")
    return ticket.user
