"""The component of tickets."""

from fastapi import APIRouter, FastAPI

from app.platform.auth import ticket_routes
from app.platform.settings import PlatformSettings

router = APIRouter(prefix="/auth", tags=["auth"])
router.include_router(ticket_routes.router)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """There is nothing to install."""
