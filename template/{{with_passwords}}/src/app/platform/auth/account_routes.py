"""Account routes of every auth style with passwords."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.platform.auth import audit_log, sessions
from app.platform.auth.accounts import Accounts, NewEmail
from app.platform.auth.audit_log import actor_of
from app.platform.auth.current import CurrentUser
from app.platform.auth.models import Account
from app.platform.auth.passwords import CommonPassword, GivenPassword, NewPassword
from app.platform.base.errors import Conflict, Forbidden, TooManyRequests, Unauthorized
from app.platform.data.database import PrimaryReadSessionDep, SessionDep
from app.platform.http.problems import responses
from app.platform.http.schemas import STORABLE, RequestModel, ResponseModel

router = APIRouter()


async def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


AccountsDep = Annotated[Accounts, Depends(_accounts)]


class Registration(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"email": "ada@example.com", "password": "correct horse battery"}]
        }
    )

    email: NewEmail
    password: NewPassword


class Registered(ResponseModel):
    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    email: str = Field(examples=["ada@example.com"])


class PasswordForm(BaseModel):
    """The OAuth 2 password form, as Swagger UI and most clients send it.

    Unknown fields are ignored, as RFC 6749 (section 3.2) demands: clients send `client_id`.
    """

    grant_type: Literal["password"] = "password"
    username: Annotated[str, STORABLE] = Field(
        min_length=1, max_length=254, description="The e-mail address", examples=["ada@example.com"]
    )
    password: GivenPassword = Field(examples=["correct horse battery"])


class Me(ResponseModel):
    """The authenticated account and its scopes."""

    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    email: str = Field(examples=["ada@example.com"])
    scopes: list[str] = Field(examples=[["admin"]])


@router.post(
    "/register",
    status_code=201,
    responses=responses(CommonPassword, Conflict, Forbidden, TooManyRequests),
)
async def register(body: Registration, request: Request, accounts: AccountsDep) -> Registered:
    """Create an account."""
    account_id = await accounts.register(request, body.email, body.password)
    return Registered(id=account_id, email=body.email)


@router.get("/me", responses=responses(Unauthorized))
async def me(user: CurrentUser, reads: PrimaryReadSessionDep, response: Response) -> Me:
    """The authenticated account."""
    response.headers["Cache-Control"] = "no-store"
    row = await reads.first(select(Account.email).where(Account.id == UUID(user.id)))
    if row is None:
        raise Unauthorized("This account no longer exists.")
    return Me(id=UUID(user.id), email=row.email, scopes=sorted(user.scopes))


@router.post("/logout-all", status_code=204, responses=responses(Unauthorized))
async def logout_all(user: CurrentUser, request: Request, db: SessionDep) -> None:
    """End all of your sessions, including this one."""
    await sessions.revoke_all(db, UUID(user.id))
    await audit_log.record(db, actor_of(request, user.id), "logout_all", user.id)
