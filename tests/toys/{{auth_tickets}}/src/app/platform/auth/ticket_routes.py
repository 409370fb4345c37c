"""Routes that give tickets and take them back."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from app.platform.auth import tickets
from app.platform.auth.current import CurrentUser
from app.platform.base.errors import Unauthorized
from app.platform.http.problems import responses
from app.platform.http.schemas import NOT_BLANK, STORABLE, RequestModel, ResponseModel

router = APIRouter()


class Name(RequestModel):
    name: Annotated[str, STORABLE, NOT_BLANK] = Field(max_length=100)


class Me(ResponseModel):
    id: str
    scopes: list[str]


@router.post("/tickets", status_code=201)
async def give(body: Name, request: Request) -> str:
    """Give a ticket to whoever asks."""
    return tickets.write(request.app.state.settings, body.name)


@router.get("/me", responses=responses(Unauthorized))
async def me(user: CurrentUser) -> Me:
    """Say who you are."""
    return Me(id=user.id, scopes=sorted(user.scopes))


@router.post("/logout", status_code=204, responses=responses(Unauthorized))
async def hand_back(user: CurrentUser, request: Request) -> None:
    """Take this ticket back."""
    lifetime = request.app.state.settings.ticket_lifetime
    await request.app.state.redis.set(f"handed-back:{user.credential}", 1, ex=lifetime)
