"""The component of this auth style: API keys, and routes to manage them.

A caller is identified by a name and authenticates with an API key, a random secret of which only
the hash is stored. A caller may have several keys, so that one can be replaced while another still
works. Each request looks up its key, so that a revocation takes effect immediately.
"""

from fastapi import APIRouter, FastAPI

from app.platform.auth import key_routes
from app.platform.auth.current import require
from app.platform.http import openapi
from app.platform.settings import PlatformSettings

router = APIRouter(prefix="/auth", tags=[openapi.Tag("auth", "The caller and their credentials.")])
router.include_router(key_routes.router)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    openapi.protect(app, require("admin"))
