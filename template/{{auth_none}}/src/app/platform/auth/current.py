"""The caller, who is anonymous and has every scope.

Access is controlled by the proxy in front of this service.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends


@dataclass(frozen=True, slots=True)
class User:
    """The anonymous caller."""

    id: str
    scopes: frozenset[str]


ANONYMOUS = User(id="anonymous", scopes=frozenset())


async def current_user() -> User:
    return ANONYMOUS


CurrentUser = Annotated[User, Depends(current_user)]


def require(*scopes: str) -> Any:
    """A dependency for the caller; it refuses nobody."""
    return Depends(current_user)


async def user_id(user: CurrentUser) -> str:
    """The key to count by caller: ``limit("exports", "10/hour", by=user_id)``; one for all."""
    return user.id
