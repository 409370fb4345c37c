"""Routes: the caller, logout, and the provider's metadata."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field, SecretStr

from app.platform.auth import audit_log
from app.platform.auth.audit_log import actor_of
from app.platform.auth.current import CurrentUser
from app.platform.auth.discovery import Metadata
from app.platform.auth.identity import InvalidCredentials
from app.platform.auth.keys import Keys
from app.platform.auth.revocations import Revocations
from app.platform.auth.scheme import CONFIGURATION
from app.platform.auth.tokens import MAX_TOKEN_LENGTH, Tokens
from app.platform.base.errors import BadRequest, Unauthorized, Unavailable
from app.platform.data.database import SessionDep
from app.platform.http import audit
from app.platform.http.openapi import Tag
from app.platform.http.problems import responses
from app.platform.http.schemas import ENCODABLE, ResponseModel, SecretLength

router = APIRouter(prefix="/auth", tags=[Tag("auth", "The caller and their credentials.")])


class Me(ResponseModel):
    """The authenticated caller and their scopes."""

    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    scopes: list[str] = Field(examples=[["admin"]])


class Configuration(Metadata):
    """The provider's metadata, as far as clients need it."""

    grant_types_supported: list[Literal["authorization_code"]] = Field(["authorization_code"])


@router.get("/me", responses=responses(Unauthorized, Unavailable))
async def me(user: CurrentUser, response: Response) -> Me:
    """The authenticated caller."""
    response.headers["Cache-Control"] = "no-store"
    return Me(id=UUID(user.id), scopes=sorted(user.scopes))


@router.get(CONFIGURATION.removeprefix("/auth"), responses=responses(Unavailable))
async def openid_configuration(request: Request) -> Configuration:
    """The metadata of the provider that issues the tokens."""
    keys: Keys = request.app.state.keys
    return Configuration(**(await keys.metadata()).model_dump())


@router.post("/logout", status_code=204, responses=responses(Unauthorized, Unavailable))
async def logout(user: CurrentUser, request: Request) -> None:
    """Revoke this access token. The session at the provider continues."""
    await _revocations(request).revoke_token(user.credential)
    audit.succeeded(request, "logout", user.id)


@router.post("/logout-all", status_code=204, responses=responses(Unauthorized, Unavailable))
async def logout_all(user: CurrentUser, request: Request, db: SessionDep) -> None:
    """Revoke all access tokens that you were issued until now."""
    await _revocations(request).revoke_token(user.credential)
    await _revocations(request).revoke_subject(user.id)
    await audit_log.record(db, actor_of(request, user.id), "logout_all", user.id)


@router.post("/backchannel-logout", responses=responses(BadRequest, Unavailable))
async def backchannel_logout(
    logout_token: Annotated[
        SecretStr,
        Form(examples=["header.claims.signature"]),
        SecretLength(1, MAX_TOKEN_LENGTH),
        ENCODABLE,
    ],
    request: Request,
    response: Response,
    db: SessionDep,
) -> None:
    """Receive a logout from the provider: OpenID Connect Back-Channel Logout."""
    response.headers["Cache-Control"] = "no-store"
    tokens: Tokens = request.app.state.tokens
    try:
        logout = await tokens.read_logout(logout_token.get_secret_value())
    except InvalidCredentials as error:
        audit.refused(request, "backchannel_logout", error.reason)
        raise BadRequest("The logout token is not valid.") from None
    await _revocations(request).revoke(logout)  # first: it must not depend on the database
    actor = actor_of(request, "provider")
    subject = logout.subject_id or "unknown"
    details = {"session": logout.session} if logout.session else {}
    await audit_log.record(db, actor, "backchannel_logout", subject, **details)


def _revocations(request: Request) -> Revocations:
    revocations: Revocations = request.app.state.revocations
    return revocations
