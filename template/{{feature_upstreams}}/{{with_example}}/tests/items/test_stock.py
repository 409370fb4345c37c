"""The stock of an item, from a scripted warehouse."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI

from app.items.stock import WAREHOUSE
from tests.items.factories import ItemCreateFactory
from tests.platform.data.peer import Peer, running_peer

ITEMS = "/api/v1/items"


@pytest.fixture
async def warehouse(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        upstream = WAREHOUSE.of(app.state.http)
        policy = upstream.policy.model_copy(update={"base_url": peer.url, "backoff": 0})
        monkeypatch.setattr(upstream, "policy", policy)
        yield peer


@pytest.mark.parametrize(
    ("action", "quantity", "requests"), [("200", 12, 1), ("404", 0, 1), ("500", None, 3)]
)
async def test_the_stock_is_the_warehouses_or_unknown_while_it_does_not_answer(
    alice: httpx2.AsyncClient, warehouse: Peer, action: str, quantity: int | None, requests: int
) -> None:
    body = ItemCreateFactory.build().model_dump(mode="json")
    item = (await alice.post(ITEMS, json=body)).json()["id"]
    warehouse.body = b'{"quantity": 12}'
    warehouse.will(otherwise=action)
    response = await alice.get(f"{ITEMS}/{item}/stock")
    assert (response.status_code, response.json()) == (200, {"quantity": quantity})
    assert len(warehouse.requests) == requests
    assert f"get /stock/{item} http".encode() in warehouse.requests[0]


async def test_the_stock_of_an_item_that_is_not_yours_is_not_asked_for(
    alice: httpx2.AsyncClient, warehouse: Peer
) -> None:
    assert (await alice.get(f"{ITEMS}/{uuid4()}/stock")).status_code == 404
    assert warehouse.requests == []
