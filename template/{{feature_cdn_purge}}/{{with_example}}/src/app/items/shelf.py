"""The public shelf: a CDN stores the number of its items until one is added."""

from fastapi import APIRouter
from pydantic import Field

from app.auth import CurrentUser
from app.items import service
from app.items.schemas import ItemCreate, ItemRead
from app.platform.base.errors import Unauthorized
from app.platform.data.cdn import CdnDep
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.cache_policy import public
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel
from app.platform.http.surrogate_keys import tagged

router = APIRouter(prefix="/items", tags=["items"])

SHELF = "shelf"


class Shelf(ResponseModel):
    items: int = Field(examples=[12])


@router.get("/shelf", dependencies=[tagged(public(s_maxage=3600), SHELF)])
async def read_shelf(session: ReadSessionDep) -> Shelf:
    """Number of items, of all owners."""
    return Shelf(items=await service.count_items(session))


@router.post("/shelf", status_code=201, responses=responses(Unauthorized))
async def put_on_shelf(
    data: ItemCreate, user: CurrentUser, session: SessionDep, cdn: CdnDep
) -> ItemRead:
    """Create an item, and purge the number of items from the CDN."""
    cdn.purge_on_commit(session, SHELF)
    return await service.create_item(session, user.id, data)
