"""An item that arrives at the warehouse belongs to its owner, once."""

import json
import secrets

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from tests.webhooks import signed

ARRIVALS = "/api/v1/items/arrivals"
KEY = secrets.token_hex(16)


async def test_an_item_that_arrived_is_in_its_owners_list_once(
    app: FastAPI, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = SecretStr(f"warehouse:{KEY}")
    monkeypatch.setattr(app.state.settings, "webhook_secrets", secret)
    me = await owner(alice)
    arrival = {"type": "item.arrived", "data": {"owner": me, "item": {"name": "Winch"}}}
    body = json.dumps(arrival).encode()
    headers = signed(KEY.encode(), body)
    for _ in range(2):
        assert (await alice.post(ARRIVALS, content=body, headers=headers)).status_code == 202
    items = (await alice.get("/api/v1/items")).json()["items"]
    assert [item["name"] for item in items].count("Winch") == 1


async def test_an_arrival_that_nobody_has_signed_is_refused(alice: httpx2.AsyncClient) -> None:
    assert (await alice.post(ARRIVALS, json={"type": "item.arrived"})).status_code == 401


async def owner(client: httpx2.AsyncClient) -> str:
    """The caller's id, with every auth style."""
    answer = await client.get("/api/v1/auth/me")
    return str(answer.json()["id"]) if answer.status_code == 200 else "anonymous"
