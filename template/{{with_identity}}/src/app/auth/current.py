"""The caller, as a dependency: looked up once for each request, however many ask.

How a caller shows who they are is ``app.auth.scheme``: ``Credential``, the dependency that finds
what was sent, and ``identify``, which says whose it is.
"""

from typing import Annotated, Any

from fastapi import Depends, Security
from starlette.requests import HTTPConnection

from app.auth.identity import NotBelieved, NothingShown, User
from app.auth.scheme import WANTED, Credential, identify
from app.platform.base import context
from app.platform.base.errors import Forbidden
from app.platform.http import audit


async def current_user(connection: HTTPConnection, credential: Credential) -> User:
    """Return the caller; raise ``Unauthorized`` if they show nothing, or nothing that is good.

    ``require`` gives FastAPI other scopes for the same dependency, which it would then call again:
    so the request keeps the answer.
    """
    user: User | None = getattr(connection.state, "user", None)
    if user is None:
        user = await _believed(connection, credential)
        connection.state.user = user
        context.current().user_id = user.id
    return user


async def _believed(connection: HTTPConnection, credential: Credential) -> User:
    if not credential:
        raise NothingShown(WANTED)
    try:
        return await identify(connection, credential)
    except NotBelieved as error:
        audit.refused(connection, "authenticate", error.reason)
        raise


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
