"""The component of this auth style: tokens of an OpenID Connect provider.

Callers authenticate with an access token of an OpenID Connect provider, which manages the accounts:
there is no user table here. A caller's id is derived from issuer and subject, so that it is stable.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI

from app.platform.auth import discovery
from app.platform.auth.current import require
from app.platform.auth.keys import Keys
from app.platform.auth.revocations import Revocations
from app.platform.auth.routes import router
from app.platform.auth.tokens import Tokens
from app.platform.base.components import Lifespan
from app.platform.http import openapi
from app.platform.settings import PlatformSettings

__all__ = ["router", "setup"]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
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
