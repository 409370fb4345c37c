"""The component of this auth style: accounts, and tokens of their sessions.

An access token is a signed JWT that is valid for ten minutes, a refresh token a random secret that
is rotated at each use. Both belong to a session, which each request looks up, so that a logout, a
disabled account or a revoked scope takes effect immediately.
"""

from fastapi import APIRouter, FastAPI

from app.platform.auth import (
    account_routes,
    accounts,
    credential_routes,
    own_data_routes,
    token_routes,
)
from app.platform.auth.current import require
from app.platform.auth.grants import Roles
from app.platform.auth.tokens import Tokens
from app.platform.data.mail import MailTemplates
from app.platform.http import openapi
from app.platform.settings import PlatformSettings

router = APIRouter(prefix="/auth", tags=[openapi.Tag("auth", "The caller and their credentials.")])
router.include_router(account_routes.router)
router.include_router(credential_routes.router)
router.include_router(own_data_routes.router)
router.include_router(token_routes.router)


def setup(app: FastAPI, settings: PlatformSettings, roles: Roles, templates: MailTemplates) -> None:
    """Set up accounts with the service's ``roles`` and with the ``templates`` of its mails."""
    openapi.protect(app, require("admin"))
    accounts.setup(app, settings, roles, templates)
    app.state.tokens = Tokens(settings)
