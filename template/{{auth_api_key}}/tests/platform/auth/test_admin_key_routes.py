"""API keys, by the routes of administrators."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.auth import key_format
from tests.actors import key_in, sign_in, sign_in_with
from tests.conftest import client_for

KEYS = "/api/v1/admin/keys"
EVENTS = "/api/v1/admin/audit-events"
ME = "/api/v1/auth/me"


@pytest.fixture
async def root(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller with the scope of administrators, and no other."""
    async with client_for(app) as client:
        client.headers.update(await sign_in_with(app, client, "root", "admin"))
        yield client


@pytest.fixture
async def carol(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        client.headers.update(await sign_in(client, "carol", "orders:read"))
        yield client


def url_of(caller: httpx2.AsyncClient, task: str = "") -> str:
    return f"{KEYS}/{key_format.parse_id(key_in(caller.headers))}{task}"


async def status(caller: httpx2.AsyncClient) -> int:
    return (await caller.get(ME)).status_code


async def actions(root: httpx2.AsyncClient, owner: str) -> list[tuple[str, str]]:
    query = {"subject": owner, "sort": "id"}
    found = (await root.get(EVENTS, params=query)).json()["items"]
    return [(event["actor"], event["action"]) for event in found]


async def test_a_key_is_refused_while_it_is_disabled(
    root: httpx2.AsyncClient, carol: httpx2.AsyncClient
) -> None:
    seen: list[Any] = [await status(carol)]
    disabled = await root.post(url_of(carol, "/disable"))
    again = await root.post(url_of(carol, "/disable"))
    seen.append(await status(carol))
    enabled = await root.post(url_of(carol, "/enable"))
    seen.append(await status(carol))

    assert seen == [200, 401, 200]
    assert disabled.json()["disabled_at"]
    assert again.json() == disabled.json()
    assert enabled.json()["disabled_at"] is None
    assert await actions(root, "carol") == [
        ("admin", "key_create"),
        ("root", "key_disable"),
        ("root", "key_enable"),
    ]


async def test_a_revoked_key_stays_refused(
    root: httpx2.AsyncClient, carol: httpx2.AsyncClient
) -> None:
    revoked = await root.post(url_of(carol, "/revoke"))
    await root.post(url_of(carol, "/disable"))
    await root.post(url_of(carol, "/enable"))

    assert revoked.json()["revoked_at"]
    assert await status(carol) == 401
    assert ("root", "key_revoke") in await actions(root, "carol")


async def test_a_disabled_key_can_not_be_replaced_by_a_valid_one(
    root: httpx2.AsyncClient, app: FastAPI
) -> None:
    async with client_for(app) as dave:
        dave.headers.update(await sign_in(dave, "dave", "keys"))
        second = await sign_in(dave, "dave", "keys")
        await root.post(url_of(dave, "/disable"))
        where = url_of(dave, "/rotate").replace("/admin/", "/auth/")

        assert (await dave.post(where, json={}, headers=second)).status_code == 409


async def test_the_list_is_filtered_and_paged_and_has_no_secrets(
    root: httpx2.AsyncClient, carol: httpx2.AsyncClient
) -> None:
    await sign_in(carol, "carol")
    everything = await root.get(KEYS)
    first = (await root.get(KEYS, params={"owner": "carol", "limit": 1})).json()
    query = {"owner": "carol", "limit": 1, "cursor": first["next"]}
    second = (await root.get(KEYS, params=query)).json()
    one = (await root.get(url_of(carol))).json()

    owners = {key["owner"] for key in everything.json()["items"]}
    assert owners == {"admin", "root", "carol"}
    assert {first["items"][0]["id"], second["items"][0]["id"]} >= {one["id"]}
    assert (len(first["items"]), len(second["items"]), second["next"]) == (1, 1, None)
    assert one["scopes"] == ["orders:read"]
    assert key_in(carol.headers)[21:73] not in everything.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/disable"), ("POST", "/enable"), ("POST", "/revoke")],
)
@pytest.mark.parametrize("key_id", ["f" * 16, "%ED%A0%80", "'%20OR%201=1"])
async def test_an_unknown_key_is_not_found(
    root: httpx2.AsyncClient, method: str, path: str, key_id: str
) -> None:
    answer = await root.request(method, f"{KEYS}/{key_id}{path}")

    assert answer.status_code in (404, 422)
