"""The caller and their scopes; features import from here alone.

A caller is identified by a name and authenticates with an API key, a random secret of which only
the hash is stored. A caller may have several keys, so that one can be replaced while another still
works. Each request looks up its key, so that a revocation takes effect immediately.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from fastapi import APIRouter, FastAPI

from app.auth import key_routes
from app.auth.commands import add_commands
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.platform.http import openapi
from app.settings import Settings

__all__ = [
    "CurrentUser",
    "User",
    "add_commands",
    "current_user",
    "require",
    "router",
    "setup",
    "user_id",
]

router = APIRouter(prefix="/auth", tags=[openapi.Tag("auth", "The caller and their credentials.")])
router.include_router(key_routes.router)


def setup(app: FastAPI, settings: Settings) -> None:
    openapi.protect(app, require("admin"))
