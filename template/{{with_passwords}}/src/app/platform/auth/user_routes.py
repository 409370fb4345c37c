"""Users, for administrators: what ``app users`` does, by the same functions."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import users
from app.platform.auth.administration import ActorDep, administration_router
from app.platform.base.errors import Conflict, NotFound
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.list_paging import ListPaging, list_paging
from app.platform.http.pagination import Page
from app.platform.http.problems import responses
from app.platform.http.schemas import STORABLE, ResponseModel

router = administration_router("/users")

UserPaging = Annotated[ListPaging, Depends(list_paging("users", users.LISTING))]
Role = Annotated[str, STORABLE, Path(max_length=100, examples=["admin"])]
ONE = "/{user_id:uuid}"


class UserRead(ResponseModel):
    """``scopes``: those of the account, beside those of its roles. ``sessions``: active ones."""

    id: UUID = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    email: str = Field(examples=["ada@example.com"])
    roles: list[str] = Field(examples=[["admin"]])
    scopes: list[str] = Field(examples=[[]])
    disabled_at: datetime | None = Field(examples=[None])
    created_at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    sessions: int = Field(examples=[1])


@router.get("")
async def list_users(session: ReadSessionDep, paging: UserPaging) -> Page[UserRead]:
    """The users, newest first unless `sort` says otherwise."""
    query, listing = paging.query, users.LISTING
    rows = await session.all(listing.select(query), **listing.values(query))
    return paging.page(rows, UserRead)


@router.get(ONE, responses=responses(NotFound))
async def get_user(user_id: UUID, db: SessionDep) -> UserRead:
    """A user."""
    return await _read(db, user_id)


@router.put(ONE + "/roles/{role}", responses=responses(NotFound))
async def grant_role(
    user_id: UUID, role: Role, actor: ActorDep, request: Request, db: SessionDep
) -> UserRead:
    """Give a user a role, from their next request on."""
    await _read(db, user_id)
    await users.grant(db, actor, user_id, role, request.app.state.roles)
    return await _read(db, user_id)


@router.delete(ONE + "/roles/{role}", responses=responses(NotFound, Conflict))
async def revoke_role(user_id: UUID, role: Role, actor: ActorDep, db: SessionDep) -> UserRead:
    """Take a role from a user; the last administrator keeps theirs (409)."""
    await _read(db, user_id)
    await users.revoke(db, actor, user_id, role)
    return await _read(db, user_id)


@router.post(ONE + "/disable", responses=responses(NotFound, Conflict))
async def disable_user(user_id: UUID, actor: ActorDep, db: SessionDep) -> UserRead:
    """End the sessions of a user, and refuse their logins; not of the last administrator (409)."""
    await _read(db, user_id)
    await users.disable(db, actor, user_id)
    return await _read(db, user_id)


@router.post(ONE + "/enable", responses=responses(NotFound))
async def enable_user(user_id: UUID, actor: ActorDep, db: SessionDep) -> UserRead:
    """Let a disabled user log in again."""
    await _read(db, user_id)
    await users.enable(db, actor, user_id)
    return await _read(db, user_id)


@router.post(ONE + "/end-sessions", responses=responses(NotFound))
async def end_user_sessions(user_id: UUID, actor: ActorDep, db: SessionDep) -> UserRead:
    """End all sessions of a user."""
    await _read(db, user_id)
    await users.end_sessions(db, actor, user_id)
    return await _read(db, user_id)


@router.post(ONE + "/reset-password", responses=responses(NotFound, Conflict))
async def reset_user_password(
    user_id: UUID, actor: ActorDep, request: Request, db: SessionDep
) -> UserRead:
    """End all sessions of a user, and send them a link to choose a new password."""
    await _read(db, user_id)
    await users.reset_password(db, actor, user_id, request.app.state.account_mails)
    return await _read(db, user_id)


async def _read(db: AsyncSession, user_id: UUID) -> UserRead:
    """A user as of now; raises ``NotFound``."""
    return UserRead.model_validate(await users.get(db, user_id))
