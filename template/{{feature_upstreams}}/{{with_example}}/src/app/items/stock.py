"""The stock of an item: a call to an upstream, the warehouse service."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import Field

from app.auth import CurrentUser
from app.items import service
from app.platform.base.errors import NotFound, Unauthorized
from app.platform.data.database import ReadSessionDep
from app.platform.data.upstreams import Upstream, upstream
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))

# Your warehouse: set UPSTREAMS__WAREHOUSE__BASE_URL.
WAREHOUSE = upstream("warehouse", base_url="http://localhost:8090", timeout=2)
WarehouseDep = Annotated[Upstream, Depends(WAREHOUSE)]


class Stock(ResponseModel):
    """The quantity in stock; null while the warehouse does not answer."""

    quantity: int | None = Field(examples=[12])


@router.get("/{item_id:uuid}/stock", responses=responses(NotFound))
async def get_stock(
    item_id: UUID, user: CurrentUser, session: ReadSessionDep, warehouse: WarehouseDep
) -> Stock:
    """The stock of an item."""
    await service.get_item(session, user.id, item_id)
    quantity = await warehouse.with_fallback(read_quantity(warehouse, item_id), None)
    return Stock(quantity=quantity)


async def read_quantity(warehouse: Upstream, item_id: UUID) -> int | None:
    response = await warehouse.get(f"/stock/{item_id}", coalesce=True)
    if response.is_client_error:  # the warehouse does not know it
        return 0
    return Stock.model_validate_json(response.content).quantity
