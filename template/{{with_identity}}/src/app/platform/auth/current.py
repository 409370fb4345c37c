"""Dependencies for the caller, who is authenticated once per request.

The auth style is in ``app.platform.auth.scheme``: ``Credential``, the dependency that extracts the
credential, ``authenticate``, which returns its user, and ``token_of``, its secret text.
"""

import time
from typing import Annotated, Any

from fastapi import Depends, Security
from starlette.requests import HTTPConnection

from app.platform.auth.auth_cache import cache_of
from app.platform.auth.identity import InvalidCredentials, MissingCredentials, User
from app.platform.auth.scheme import MISSING_DETAIL, Credential, authenticate, token_of
from app.platform.base import context
from app.platform.base.errors import Forbidden
from app.platform.http import audit

__all__ = ["CurrentUser", "User", "current_user", "require", "user_id"]


async def current_user(connection: HTTPConnection, credential: Credential) -> User:
    """The caller; raises ``Unauthorized`` for missing or invalid credentials.

    The result is kept on the request, since FastAPI calls the dependency again for each set of
    scopes that ``require`` gives it.
    """
    user: User | None = getattr(connection.state, "user", None)
    if user is None:
        user = await _authenticate(connection, credential)
        connection.state.user = user
        context.current().user_id = user.id
    return user


async def _authenticate(connection: HTTPConnection, credential: Credential) -> User:
    if not credential:
        raise MissingCredentials(MISSING_DETAIL)
    cache = cache_of(connection)
    if cache and (user := cache.get(token_of(credential))):
        return user
    looked_up = time.monotonic()
    try:
        user = await authenticate(connection, credential)
    except InvalidCredentials as error:
        audit.refused(connection, "authenticate", error.reason)
        raise
    if cache:
        cache.add(token_of(credential), user, looked_up)
    return user


CurrentUser = Annotated[User, Depends(current_user)]


def require(*scopes: str) -> Any:
    """A dependency for a caller with all of ``scopes``; raises ``Forbidden`` otherwise.

    Use it for a parameter, ``Annotated[User, require("admin")]``, or in the ``dependencies`` of a
    route or router.
    """

    async def check(user: CurrentUser) -> User:
        if not user.scopes.issuperset(scopes):
            needed = " ".join(scopes)
            challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
            raise Forbidden(f"Missing scope: {needed}.", headers={"WWW-Authenticate": challenge})
        return user

    return Security(check, scopes=scopes)


async def user_id(user: CurrentUser) -> str:
    """The key to count by caller: ``limit("exports", "10/hour", by=user_id)``."""
    return user.id
