"""Authentication by an access token of the identity provider."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import OpenIdConnect
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from app.platform.auth.identity import InvalidCredentials, User
from app.platform.auth.revocations import Revocations
from app.platform.auth.tokens import Tokens

MISSING_DETAIL = "Send an access token of the identity provider."
CONFIGURATION = "/auth/openid-configuration"

# A URL of this service, so that the API document does not depend on the provider.
_provider = OpenIdConnect(
    openIdConnectUrl=f"/api/v1{CONFIGURATION}", scheme_name="oidc", auto_error=False
)


async def _bearer(header: Annotated[str | None, Depends(_provider)]) -> str | None:
    scheme, token = get_authorization_scheme_param(header)
    return token if scheme.lower() == "bearer" else None


Credential = Annotated[str | None, Depends(_bearer)]


def token_of(token: str) -> str:
    """The secret text of a credential."""
    return token


async def authenticate(connection: HTTPConnection, token: str) -> User:
    """The caller of a token; raises ``InvalidCredentials`` if it is invalid or revoked."""
    tokens: Tokens = connection.app.state.tokens
    revocations: Revocations = connection.app.state.revocations
    access = await tokens.read_access(token)
    if await revocations.is_revoked(access):
        raise InvalidCredentials("revoked", "The access token was revoked.")
    return User(access.subject_id, access.scopes, access.id)
