"""Labels to print, in a new layout for users with the flag `short-labels`."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from app.auth import CurrentUser
from app.items import service
from app.platform.base.errors import NotFound, Unauthorized
from app.platform.data.database import ReadSessionDep
from app.platform.data.flags import FlagsDep
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))


class Label(ResponseModel):
    lines: list[str] = Field(examples=[["Anchor", "12 July 2026"]])


@router.get("/{item_id:uuid}/label", responses=responses(NotFound))
async def read_label(
    item_id: UUID, user: CurrentUser, session: ReadSessionDep, flags: FlagsDep
) -> Label:
    """The label of an item, to be printed."""
    item = await service.get_item(session, user.id, item_id)
    if flags.enabled("short-labels", user.id):
        return Label(lines=[item.name])
    return Label(lines=[item.name, f"{item.created_at:%-d %B %Y}"])
