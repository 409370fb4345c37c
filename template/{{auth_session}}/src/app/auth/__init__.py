"""The caller and their scopes; features import from here alone.

A login opens a session, a row in Postgres, and returns its token: to browsers as a cookie that
scripts cannot read, to other clients as a bearer token. Each request looks up the session, so that
a logout, a disabled account or a revoked scope takes effect immediately.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from fastapi import APIRouter, FastAPI

from app.auth import account_routes, credential_routes, csrf, own_data_routes, session_routes
from app.auth.accounts import Accounts
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.auth.user_commands import add_commands
from app.platform.http import cors, openapi
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
router.include_router(session_routes.router)


def setup(app: FastAPI, settings: Settings) -> None:
    openapi.protect(app, require("admin"))
    app.state.accounts = Accounts(app, settings)
    app.state.csrf = csrf.Csrf(settings)
    cors.allow(app, csrf.HEADER)
