"""Items that arrive at the warehouse, reported by its webhook."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from app.items import service
from app.items.schemas import ItemCreate
from app.platform.data.database import SessionDep
from app.platform.http.webhooks import WebhookMessage, webhook_source

router = APIRouter(prefix="/items/arrivals", tags=["items"])

WAREHOUSE = webhook_source("warehouse")  # its secrets: WEBHOOK_SECRETS=warehouse:whsec_...


class Arrival(BaseModel):
    owner: str
    item: ItemCreate


class ItemArrived(BaseModel):
    """A message of the warehouse; it may have more fields than this service reads."""

    type: Literal["item.arrived"]
    data: Arrival


@router.post("", status_code=202, responses=WAREHOUSE.responses)
async def receive_arrival(
    message: Annotated[WebhookMessage, Depends(WAREHOUSE)], session: SessionDep
) -> None:
    """An item has arrived: it belongs to its owner from now on. Sent by the warehouse."""
    # In the transaction of the message's id. What takes longer is enqueued in it, as a job.
    arrival = message.parse(ItemArrived).data
    await service.create_item(session, arrival.owner, arrival.item)
