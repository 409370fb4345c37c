"""Who is calling, and what they may do. Features import from here alone.

An access token is a signed JWT for ten minutes, a refresh token a random secret that is replaced at
each use. Both belong to a session, which is looked up at each request, so that a logout, a disabled
account or a scope that was taken away is felt at once.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from fastapi import APIRouter, FastAPI

from app.auth import account_routes, token_routes
from app.auth.accounts import Accounts
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.auth.tokens import Tokens
from app.settings import Settings

__all__ = ["CurrentUser", "User", "current_user", "require", "router", "setup", "user_id"]

router = APIRouter(prefix="/auth", tags=["auth"])
router.include_router(account_routes.router)
router.include_router(token_routes.router)


def setup(app: FastAPI, settings: Settings) -> None:
    app.state.accounts = Accounts(app, settings)
    app.state.tokens = Tokens(settings)
