"""Who is calling: whoever a ticket names."""

from fastapi import APIRouter, FastAPI

from app.auth import ticket_routes
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.settings import Settings

__all__ = ["CurrentUser", "User", "current_user", "require", "router", "setup", "user_id"]

router = APIRouter(prefix="/auth", tags=["auth"])
router.include_router(ticket_routes.router)


def setup(app: FastAPI, settings: Settings) -> None:
    """There is nothing to install."""
