"""Items of an account are exported and deleted with it."""

import httpx2

from tests.accounts import PASSWORD, post
from tests.actors import sign_in

EXPORT = "/api/v1/auth/export"


async def test_an_export_has_the_items_of_the_owner_and_of_nobody_else(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    parts = [{"name": "Chain", "quantity": 3}]
    await alice.post("/api/v1/items", json={"name": "Anchor", "parts": parts})
    await bob.post("/api/v1/items", json={"name": "Buoy"})
    [item] = (await alice.get(EXPORT)).json()["features"]["items"]

    assert (item["name"], item["parts"]) == ("Anchor", parts)


async def test_a_deleted_account_takes_its_items_along_and_no_others(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    location = (await alice.post("/api/v1/items", json={"name": "Anchor"})).headers["Location"]
    await bob.post("/api/v1/items", json={"name": "Buoy"})
    assert (await post(alice, "delete-account", password=PASSWORD)).status_code == 204
    client.headers.update(await sign_in(client, "alice@example.com"))

    assert (await client.get("/api/v1/items")).json()["items"] == []
    assert (await client.get(location)).status_code == 404
    assert len((await bob.get("/api/v1/items")).json()["items"]) == 1
