"""Who is calling, and what they may do: anybody, and everything. Features import from here alone.

Whatever stands in front of this service decides who gets to it.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI

from app.settings import Settings


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling, and what they may do."""

    id: str
    scopes: frozenset[str]


ANYBODY = User(id="anonymous", scopes=frozenset())


async def current_user() -> User:
    return ANYBODY


CurrentUser = Annotated[User, Depends(current_user)]


def require(*scopes: str) -> Any:
    """Return a dependency that yields the caller: nobody is refused."""
    return Depends(current_user)


async def user_id(user: CurrentUser) -> str:
    """Count all callers together: ``limit("exports", "10/hour", by=user_id)``."""
    return user.id


router = APIRouter()


def setup(app: FastAPI, settings: Settings) -> None:
    """There is nothing to install."""
