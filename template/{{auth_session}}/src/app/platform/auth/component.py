"""The component of this auth style: accounts, and sessions with a token each.

A login opens a session, a row in Postgres, and returns its token: to browsers as a cookie that
scripts cannot read, to other clients as a bearer token. Each request looks up the session, so that
a logout, a disabled account or a revoked scope takes effect immediately.
"""

from fastapi import APIRouter, FastAPI

from app.platform.auth import (
    account_routes,
    accounts,
    credential_routes,
    csrf,
    own_data_routes,
    session_routes,
)
from app.platform.auth.current import require
from app.platform.auth.grants import Roles
from app.platform.data.mail import MailTemplates
from app.platform.http import cors, openapi
from app.platform.settings import PlatformSettings

router = APIRouter(prefix="/auth", tags=[openapi.Tag("auth", "The caller and their credentials.")])
router.include_router(account_routes.router)
router.include_router(credential_routes.router)
router.include_router(own_data_routes.router)
router.include_router(session_routes.router)


def setup(app: FastAPI, settings: PlatformSettings, roles: Roles, templates: MailTemplates) -> None:
    """Set up accounts with the service's ``roles`` and with the ``templates`` of its mails."""
    openapi.protect(app, require("admin"))
    accounts.setup(app, settings, roles, templates)
    app.state.csrf = csrf.Csrf(settings)
    cors.allow(app, csrf.HEADER)
