"""A published item is sent to its owner's webhooks."""

from uuid import uuid4

import httpx2
from fastapi import FastAPI
from sqlalchemy import select

from app.items.publication import ITEM_PUBLISHED
from app.platform.data.webhook_subscriptions import create
from app.platform.data.webhook_tables import WebhookDelivery, WebhookEvent

ITEMS = "/api/v1/items"


async def test_publishing_an_item_sends_it_to_its_owners_webhooks(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    item = (await alice.post(ITEMS, json={"name": "Winch"})).json()
    async with app.state.db.transaction() as session:
        me = await owner(alice)
        for who in (me, "somebody else"):
            await create(
                session, app.state.settings, who, "https://example.com/", [ITEM_PUBLISHED.name]
            )
    assert (await alice.post(f"{ITEMS}/{item['id']}/publication")).status_code == 202
    async with app.state.db.transaction() as session:
        statement = select(WebhookEvent.owner, WebhookEvent.payload).join(WebhookDelivery)
        [event] = (await session.execute(statement)).all()
    assert event.owner == me
    assert '"type":"item.published"' in event.payload
    assert '"name":"Winch"' in event.payload


async def test_an_item_that_is_not_yours_can_not_be_published(alice: httpx2.AsyncClient) -> None:
    assert (await alice.post(f"{ITEMS}/{uuid4()}/publication")).status_code == 404


async def owner(client: httpx2.AsyncClient) -> str:
    """The caller's id, with every auth style."""
    answer = await client.get("/api/v1/auth/me")
    return str(answer.json()["id"]) if answer.status_code == 200 else "anonymous"
