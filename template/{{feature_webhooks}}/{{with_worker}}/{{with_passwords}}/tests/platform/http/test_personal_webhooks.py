"""Webhooks of an account are exported and deleted with it."""

import httpx2
from fastapi import FastAPI
from sqlalchemy import select

from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.data.webhook_tables import WebhookDelivery, WebhookEvent, WebhookSubscription
from tests.accounts import AUTH, PASSWORD, post
from tests.actors import sign_in

URL = "https://example.com/webhooks"


async def test_webhooks_are_exported_and_deleted_with_the_account_of_their_owner(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    alice = await sign_in(client, "alice@example.com")
    bob = await sign_in(client, "bob@example.com")
    owners = {}
    for name, headers in {"alice": alice, "bob": bob}.items():
        owners[name] = (await client.get(f"{AUTH}/me", headers=headers)).json()["id"]
        async with app.state.db.transaction() as session:
            await webhook_subscriptions.create(
                session, app.state.settings, owners[name], URL, ["order.paid"]
            )
            await webhook_deliveries.publish(session, owners[name], "order.paid", {"by": name})
    exported = (await client.get(f"{AUTH}/export", headers=alice)).json()["features"]["webhooks"]
    deleted = await post(client, "delete-account", alice, password=PASSWORD)

    assert [each["url"] for each in exported["subscriptions"]] == [URL]
    assert ["alice" in each["payload"] for each in exported["events"]] == [True]
    assert "secret" not in str(exported)
    assert deleted.status_code == 204
    async with app.state.db.transaction() as session:
        left = (await session.scalars(select(WebhookSubscription.owner))).all()
        events = (await session.scalars(select(WebhookEvent.owner))).all()
        deliveries = (await session.scalars(select(WebhookDelivery.id))).all()
    assert left == events == [owners["bob"]]
    assert len(deliveries) == 1
