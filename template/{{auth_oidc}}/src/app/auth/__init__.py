"""The caller and their scopes; features import from here alone.

Callers authenticate with an access token of an OpenID Connect provider, which manages the accounts:
there is no user table here. A caller's id is derived from issuer and subject, so that it is stable.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI

from app.auth import discovery
from app.auth.current import CurrentUser, current_user, require, user_id
from app.auth.identity import User
from app.auth.keys import Keys
from app.auth.revocations import Revocations
from app.auth.routes import router
from app.auth.tokens import Tokens
from app.platform.base.components import Lifespan
from app.platform.http import openapi
from app.settings import Settings

__all__ = ["CurrentUser", "User", "current_user", "require", "router", "setup", "user_id"]


def setup(app: FastAPI, settings: Settings) -> Lifespan:
    openapi.protect(app, require("admin"))
    keys = Keys(lambda: discovery.fetch(app.state.http, settings), settings.oidc_keys_max_age)
    app.state.keys = keys
    app.state.tokens = Tokens(settings, keys)
    if settings.oidc_client_id and settings.oidc_issuer:
        issuer = urlsplit(settings.oidc_issuer)
        app.state.swagger_oauth = openapi.SwaggerOAuth(
            settings.oidc_client_id,
            f"{issuer.scheme}://{issuer.netloc}",
            dict(parse_qsl(settings.oidc_login_parameters)),
        )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.revocations = Revocations(app.state.redis, settings)
        app.state.readiness.add("identity_provider", keys.ping, critical=False)
        app.state.readiness.add("identity_keys", keys.metadata, critical=True)
        try:
            yield
        finally:
            await keys.close()

    return lifespan
