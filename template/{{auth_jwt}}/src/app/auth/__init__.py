"""The caller and their scopes; features import from here alone.

An access token is a signed JWT that is valid for ten minutes, a refresh token a random secret that
is rotated at each use. Both belong to a session, which each request looks up, so that a logout, a
disabled account or a revoked scope takes effect immediately.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from fastapi import APIRouter, FastAPI

from app.auth import account_routes, credential_routes, own_data_routes, token_routes
from app.auth.accounts import Accounts
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.auth.tokens import Tokens
from app.auth.user_commands import add_commands
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
router.include_router(account_routes.router)
router.include_router(credential_routes.router)
router.include_router(own_data_routes.router)
router.include_router(token_routes.router)


def setup(app: FastAPI, settings: Settings) -> None:
    openapi.protect(app, require("admin"))
    app.state.accounts = Accounts(app, settings)
    app.state.tokens = Tokens(settings)
