"""Routes for the owner of an account: its sessions, its data, its deletion."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field
from sqlalchemy import select

from app.platform.auth import audit_log, own_data, sessions
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.account_routes import AccountsDep
from app.platform.auth.audit_log import actor_of
from app.platform.auth.current import CurrentUser, user_id
from app.platform.auth.models import Account, LoginSession
from app.platform.auth.passwords import GivenPassword
from app.platform.base.errors import Conflict, Forbidden, NotFound, TooManyRequests, Unauthorized
from app.platform.data.database import PrimaryReadSessionDep, ReadSession, SessionDep
from app.platform.http.problems import responses
from app.platform.http.rate_limit import limit
from app.platform.http.schemas import RequestModel, ResponseModel

router = APIRouter()

ID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
TIME = Field(examples=["2026-11-28T12:00:00Z"])


class SessionRead(ResponseModel):
    """``expires_at``: when it ends if it is not used. ``user_agent``: as its program calls itself.

    ``current``: whether it is the one of this request.
    """

    id: UUID = ID
    created_at: datetime = TIME
    expires_at: datetime = TIME
    user_agent: str = Field(examples=["Mozilla/5.0"])
    current: bool = Field(examples=[True])


class AccountRead(ResponseModel):
    id: UUID = ID
    email: str = Field(examples=["ada@example.com"])
    created_at: datetime = TIME
    verified_at: datetime | None = TIME
    scopes: list[str] = Field(examples=[["admin"]])


class OwnEvent(ResponseModel):
    at: datetime = TIME
    action: str = Field(examples=["change_password"])


class OwnData(ResponseModel):
    """``events``: the audit log about the owner, newest first.

    ``features``: what each feature of the service has of the owner, by its name.
    """

    account: AccountRead
    sessions: list[SessionRead]
    events: list[OwnEvent]
    features: dict[str, Any] = Field(examples=[{"items": []}])


class Deletion(RequestModel):
    password: GivenPassword = Field(examples=["correct horse battery"])


@router.get("/sessions", responses=responses(Unauthorized))
async def list_sessions(
    user: CurrentUser, reads: PrimaryReadSessionDep, response: Response
) -> list[SessionRead]:
    """Your active sessions, newest first."""
    response.headers["Cache-Control"] = "no-store"
    return await _sessions(reads, user.id, user.credential)


@router.delete(
    "/sessions/{session_id:uuid}", status_code=204, responses=responses(Unauthorized, NotFound)
)
async def end_session(
    session_id: UUID, user: CurrentUser, request: Request, db: SessionDep
) -> None:
    """End one of your sessions."""
    owner = select(LoginSession.account_id).where(LoginSession.id == session_id)
    if (await db.execute(owner)).scalar() != UUID(user.id) or not await sessions.revoke(
        db, session_id
    ):
        raise NotFound("You have no such session.")
    actor = actor_of(request, user.id)
    await audit_log.record(db, actor, "end_session", user.id, session=str(session_id))


@router.get(
    "/export",
    responses=responses(Unauthorized, TooManyRequests),
    dependencies=[limit("account-export", "10/hour", by=user_id)],
)
async def export_data(
    user: CurrentUser, reads: PrimaryReadSessionDep, response: Response
) -> OwnData:
    """Everything that this service has of you."""
    response.headers["Cache-Control"] = "no-store"
    columns = (
        Account.id,
        Account.email,
        Account.created_at,
        Account.verified_at,
        Account.scopes,
    )
    row = await reads.first(select(*columns).where(Account.id == UUID(user.id)))
    if row is None:
        raise Unauthorized("This account no longer exists.")
    return OwnData(
        account=AccountRead.model_validate(row),
        sessions=await _sessions(reads, user.id, user.credential),
        events=[OwnEvent.model_validate(row) for row in await own_data.list_events(reads, user.id)],
        features=await own_data.export_features(reads, user.id),
    )


@router.post(
    "/delete-account",
    status_code=204,
    responses=responses(Unauthorized, Forbidden, Conflict, TooManyRequests),
)
async def delete_account(
    body: Deletion, user: CurrentUser, request: Request, accounts: AccountsDep, db: SessionDep
) -> None:
    """Delete your account and your data; this can't be undone."""
    account = await accounts.confirm_password(request, UUID(user.id), body.password)
    mails: AccountMails = request.app.state.account_mails
    await own_data.delete_account(db, mails, account)
    await audit_log.record(db, actor_of(request, user.id), "delete_account", user.id)


async def _sessions(reads: ReadSession, account_id: str, current: str) -> list[SessionRead]:
    rows = await own_data.list_sessions(reads, UUID(account_id))
    return [
        SessionRead.model_validate({**row._mapping, "current": str(row.id) == current})
        for row in rows
    ]
