"""Offers for an item: concurrent calls to all shops, and those that answered in time."""

from functools import partial
from uuid import UUID

import httpx2
from fastapi import APIRouter
from pydantic import Field

from app.auth import CurrentUser
from app.items import service
from app.platform.base.errors import NotFound, Unauthorized
from app.platform.base.fan_out import fan_out
from app.platform.data.database import ReadSessionDep
from app.platform.data.http_client import HttpClientDep
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))

# Your shops: each answers GET /offers?name= with {"cents": 1250}.
SHOPS = ("http://localhost:8091", "http://localhost:8092")
TIMEOUT = 2.0  # seconds for all shops together


class Price(ResponseModel):
    cents: int = Field(ge=0, examples=[1250])


class Offer(Price):
    shop: str = Field(examples=["http://localhost:8091"])


class Offers(ResponseModel):
    offers: list[Offer]
    unanswered: list[str] = Field(
        description="Shops that failed or did not answer in time",
        examples=[["http://localhost:8092"]],
    )


@router.get("/{item_id:uuid}/offers", responses=responses(NotFound))
async def list_offers(
    item_id: UUID, user: CurrentUser, session: ReadSessionDep, http: HttpClientDep
) -> Offers:
    """The price of an item in each shop."""
    item = await service.get_item(session, user.id, item_id)
    outcomes = await fan_out(partial(ask, http, item.name), SHOPS, timeout=TIMEOUT, limit=5)
    return Offers(
        offers=[outcome.value for outcome in outcomes if outcome.value],
        unanswered=[outcome.item for outcome in outcomes if outcome.error],
    )


async def ask(http: httpx2.AsyncClient, name: str, shop: str) -> Offer:
    response = await http.get(f"{shop}/offers", params={"name": name})
    price = Price.model_validate_json(response.raise_for_status().content)
    return Offer(shop=shop, cents=price.cents)
