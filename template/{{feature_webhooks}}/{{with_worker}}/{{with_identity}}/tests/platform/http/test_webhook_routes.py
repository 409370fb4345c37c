"""The routes of subscriptions: each caller has their own, and sees nobody else's."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from app.platform.data.webhook_tables import WebhookDelivery
from app.platform.http import webhook_events
from app.platform.http.webhook_events import webhook_event

URL = "/api/v1/webhooks/subscriptions"
DELIVERIES = "/api/v1/webhooks/deliveries"
NEW = {"url": "https://example.com/hook", "event_types": ["test.sold"]}


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    known = dict(webhook_events._types)
    webhook_event("test.sold", int)
    yield
    webhook_events._types.clear()
    webhook_events._types.update(known)


async def subscribe(client: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await client.post(URL, json=NEW)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_subscription_shows_its_secret_once(
    alice: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    answer = await alice.post(URL, json=NEW)
    made = answer.json()
    assert made["secret"].startswith("whsec_")
    assert answer.headers["Cache-Control"] == "no-store"
    read = (await alice.get(answer.headers["Location"])).json()
    assert read == {name: value for name, value in made.items() if name != "secret"}
    assert (await alice.get(URL)).json() == [read]
    rotated = await alice.post(f"{URL}/{made['id']}/rotate-secret")
    assert rotated.json()["secret"] not in ("", made["secret"])
    logged = [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()]
    events = [event for event in logged if event.startswith("audit.webhook")]
    assert events == ["audit.webhook_subscription_created", "audit.webhook_secret_rotated"]


async def test_nobody_sees_or_changes_a_subscription_of_another_caller(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    made = await subscribe(alice)
    await alice.post(f"{URL}/{made['id']}/ping")
    [delivery] = (await alice.get(DELIVERIES)).json()
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/enable"),
        ("POST", "/rotate-secret"),
        ("POST", "/ping"),
    ):
        answer = await bob.request(method, f"{URL}/{made['id']}{path}")
        assert answer.status_code == 404, (method, path)
    assert (await bob.get(URL)).json() == []
    assert (await bob.get(DELIVERIES)).json() == []
    assert (await bob.get(DELIVERIES, params={"subscription": made["id"]})).json() == []
    assert (await bob.get(f"{DELIVERIES}/{delivery['id']}/attempts")).json() == []
    assert (await bob.post(f"{DELIVERIES}/{delivery['id']}/replay")).status_code == 404
    assert len((await alice.get(URL)).json()) == 1


async def test_a_stranger_gets_nothing(client: httpx2.AsyncClient) -> None:
    assert (await client.get(URL)).status_code == 401
    assert (await client.post(URL, json=NEW)).status_code == 401


async def test_a_ping_is_a_delivery_that_can_be_replayed_when_it_is_dead(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    made = await subscribe(alice)
    assert (await alice.post(f"{URL}/{made['id']}/ping")).status_code == 202
    [delivery] = (await alice.get(DELIVERIES, params={"status": "pending"})).json()
    assert (delivery["type"], delivery["attempts"]) == ("webhook.ping", 0)
    replay = f"{DELIVERIES}/{delivery['id']}/replay"
    assert (await alice.post(replay)).status_code == 404
    async with app.state.db.transaction() as session:
        await session.execute(update(WebhookDelivery).values(status="dead"))
    assert (await alice.get(DELIVERIES, params={"status": "pending"})).json() == []
    assert (await bob.post(replay)).status_code == 404
    assert (await alice.post(replay)).status_code == 202
    [again] = (await alice.get(DELIVERIES, params={"status": "pending"})).json()
    assert again["id"] == delivery["id"]


async def test_a_deleted_subscription_is_gone_with_its_deliveries(
    alice: httpx2.AsyncClient,
) -> None:
    made = await subscribe(alice)
    await alice.post(f"{URL}/{made['id']}/ping")
    assert (await alice.delete(f"{URL}/{made['id']}")).status_code == 204
    assert (await alice.get(DELIVERIES)).json() == []


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"url": "https://169.254.169.254/"}, 400, "webhook_url_invalid"),
        ({"url": "http://example.com/"}, 400, "webhook_url_invalid"),
        ({"event_types": ["test.none"]}, 400, "webhook_event_type_unknown"),
        ({"event_types": []}, 422, "invalid"),
    ],
)
async def test_a_subscription_that_can_not_work_is_refused(
    alice: httpx2.AsyncClient, change: dict[str, Any], status: int, code: str
) -> None:
    answer = await alice.post(URL, json=NEW | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
