"""Copies of items: a POST that is safe to repeat with its ``Idempotency-Key``."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.auth import CurrentUser, user_id
from app.items import service
from app.items.schemas import ItemCreate, ItemRead
from app.platform.base.errors import NotFound, Unauthorized
from app.platform.data.database import SessionDep
from app.platform.http.idempotency import idempotent
from app.platform.http.problems import responses
from app.platform.http.versioning import location

router = APIRouter(
    prefix="/items",
    tags=["items"],
    responses=responses(Unauthorized),
    route_class=idempotent(by=user_id),
)


@router.post("/{item_id:uuid}/copies", status_code=201, responses=responses(NotFound))
async def copy_item(
    item_id: UUID, user: CurrentUser, session: SessionDep, request: Request, response: Response
) -> ItemRead:
    """Create a copy of an item, once for each `Idempotency-Key`."""
    item = await service.get_owned_item(session, user.id, item_id)
    data = ItemCreate.model_validate(item, from_attributes=True)
    copy = await service.create_item(session, user.id, data)
    response.headers["Location"] = location(request, f"/items/{copy.id}")
    response.headers["ETag"] = f'"{copy.version}"'
    return ItemRead.model_validate(copy)
