"""The component of this auth style: it has neither routes nor anything to set up."""

from fastapi import APIRouter, FastAPI

from app.platform.settings import PlatformSettings

router = APIRouter()


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Nothing to set up."""
