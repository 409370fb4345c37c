"""The items API."""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from fastapi import FastAPI

from app import api
from app.settings import Settings
from tests.actors import sign_in, sign_in_with
from tests.conftest import client_for, running_app
from tests.items.factories import ItemCreateFactory

ITEMS = "/api/v1/items"


async def create_item(client: httpx2.AsyncClient, name: str = "Anchor") -> httpx2.Response:
    body = ItemCreateFactory.build(name=name)
    response = await client.post(ITEMS, json=body.model_dump(mode="json"))
    assert response.status_code == 201, response.text
    return response


async def test_an_item_can_be_created_read_updated_and_deleted(alice: httpx2.AsyncClient) -> None:
    created = await create_item(alice, "  Anchor ")
    url = created.headers["Location"]
    assert created.json()["name"] == "Anchor"

    assert (await alice.get(url)).json() == created.json()

    changed = await alice.patch(url, json={"description": "Forged, 40 kg"})
    assert changed.json()["description"] == "Forged, 40 kg"
    assert changed.json()["name"] == "Anchor"

    assert (await alice.delete(url)).status_code == 204
    assert (await alice.get(url)).status_code == 404


async def test_the_parts_of_an_item_are_read_in_order_and_replaced_together(
    alice: httpx2.AsyncClient,
) -> None:
    parts = [{"name": "Shank", "quantity": 1}, {"name": "Fluke", "quantity": 2}]
    created = await alice.post(ITEMS, json={"name": "Anchor", "parts": parts})
    url = created.headers["Location"]
    assert (await alice.get(url)).json()["parts"] == created.json()["parts"] == parts
    assert (await alice.get(ITEMS)).json()["items"] == [created.json()]

    changed = await alice.patch(url, json={"parts": parts[1:]})
    assert changed.json()["parts"] == parts[1:]
    assert changed.headers["ETag"] != created.headers["ETag"]
    assert (await alice.get(url)).json() == changed.json()
    assert (await alice.patch(url, json={"name": "Hook"})).json()["parts"] == parts[1:]
    assert (await alice.delete(url)).status_code == 204


async def test_a_list_sends_as_many_queries_for_many_items_as_for_one(
    alice: httpx2.AsyncClient, queries: list[str]
) -> None:
    async def sent() -> int:
        queries.clear()
        assert (await alice.get(ITEMS)).json()["items"]
        return len(queries)

    await create_item(alice)
    for_one = await sent()
    for _ in range(5):
        await create_item(alice)
    assert await sent() == for_one > 0


async def test_a_cached_item_is_answered_with_304_until_it_changes(
    alice: httpx2.AsyncClient,
) -> None:
    url = (await create_item(alice)).headers["Location"]
    first = await alice.get(url)
    assert "private" in first.headers["Cache-Control"]

    for condition in (
        {"If-None-Match": first.headers["ETag"]},
        {"If-None-Match": f'"other", W/{first.headers["ETag"]}'},
    ):
        again = await alice.get(url, headers=condition)
        assert (again.status_code, again.content) == (304, b""), condition
        assert again.headers["ETag"] == first.headers["ETag"]

    await alice.patch(url, json={"name": "Anchor, new"})
    condition = {"If-None-Match": first.headers["ETag"]}
    assert (await alice.get(url, headers=condition)).json()["name"] == "Anchor, new"


async def test_a_list_is_answered_with_304_until_one_of_its_items_changes(
    alice: httpx2.AsyncClient,
) -> None:
    item = (await create_item(alice)).headers["Location"]

    async def status(etag: str) -> int:
        return (await alice.get(ITEMS, headers={"If-None-Match": etag})).status_code

    etag = (await alice.get(ITEMS)).headers["ETag"]
    assert await status(etag) == 304
    await alice.patch(item, json={"name": "Anchor, new"})
    assert await status(etag) == 200
    etag = (await alice.get(ITEMS)).headers["ETag"]
    await create_item(alice)
    assert await status(etag) == 200


async def test_an_update_or_delete_with_a_stale_etag_is_refused(
    alice: httpx2.AsyncClient,
) -> None:
    created = await create_item(alice)
    url, etag = created.headers["Location"], created.headers["ETag"]
    first = await alice.patch(url, json={"name": "One"}, headers={"If-Match": etag})
    second = await alice.patch(url, json={"name": "Two"}, headers={"If-Match": etag})
    assert (first.status_code, second.status_code) == (200, 412)
    assert (await alice.delete(url, headers={"If-Match": etag})).status_code == 412
    assert (await alice.get(url)).json()["name"] == "One"


async def test_pages_list_each_item_once_while_items_are_added(
    alice: httpx2.AsyncClient,
) -> None:
    created = [(await create_item(alice, f"Item {n}")).json()["id"] for n in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await alice.get(ITEMS, params=query)).json()
        seen += [item["id"] for item in page["items"]]
        await create_item(alice, "In between")
        if not (cursor := page["next"]):
            break
    assert len(seen) == len(set(seen))
    assert set(created) <= set(seen)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=10000", "limit=x"])
async def test_the_page_size_is_bounded(alice: httpx2.AsyncClient, query: str) -> None:
    assert (await alice.get(f"{ITEMS}?{query}")).status_code == 422


async def test_a_forged_cursor_is_refused(alice: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await create_item(alice)
    cursor = (await alice.get(ITEMS, params={"limit": 1})).json()["next"]
    assert (await alice.get(ITEMS, params={"cursor": cursor})).status_code == 200
    swapped = cursor[:30] + ("A" if cursor[30] != "A" else "B") + cursor[31:]
    for forged in (swapped, cursor[:-4], "x", "é", "' OR 1=1 --", ""):
        response = await alice.get(ITEMS, params={"cursor": forged})
        assert response.status_code == 400, forged
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "   "},
        {"name": "\x1c"},
        {"name": "x" * 201},
        {"name": "x" * 200 + " "},
        {"name": "\0"},
        {"name": 1},
        {"name": ["x"]},
        {"name": "x", "description": "y" * 10_001},
        {"name": "x", "parts": [{"name": "y", "quantity": 0}]},
        {"name": "x", "parts": [{"name": "y"}] * 51},
        {"name": "x", "descripton": "y"},
        [],
        None,
    ],
)
async def test_an_invalid_item_is_refused(alice: httpx2.AsyncClient, body: object) -> None:
    response = await alice.post(ITEMS, json=body)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_any_text_is_stored_unchanged(alice: httpx2.AsyncClient) -> None:
    for text in ("Ⅷ ﷽ 👩‍👩‍👧", "'; DROP TABLE items; --", "{{ 7*7 }}", "\u202eabc", "\r\nx: y"):
        created = await alice.post(ITEMS, json={"name": f"n{text}", "description": text})
        read = await alice.get(created.headers["Location"])
        assert read.json()["description"] == text


async def test_of_concurrent_updates_exactly_one_succeeds(fresh_settings: Settings) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        created = await create_item(client)
        etag = {"If-Match": created.headers["ETag"]}

        async def change(number: int) -> int:
            url = created.headers["Location"]
            body = {"name": f"Change {number}"}
            return (await client.patch(url, json=body, headers=etag)).status_code

        statuses = await asyncio.gather(*(change(number) for number in range(50)))
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 409, 412}


async def test_locations_are_in_the_version_of_the_api_that_was_called(
    fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(api.VERSIONS[0], name="v2")
    monkeypatch.setattr(api, "VERSIONS", (*api.VERSIONS, newer))
    async with running_app(fresh_settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "versions@example.com"))
        created = await client.post("/api/v2/items", json={"name": "Anchor"})
        assert created.headers["Location"] == f"/api/v2/items/{created.json()['id']}"
        export = await client.post("/api/v2/items/export")
        assert export.headers["Location"] == f"/api/v2/jobs/{export.json()['id']}"
        assert (await client.get(export.headers["Location"])).status_code == 200


async def test_an_export_is_accepted_and_its_status_can_be_read(
    alice: httpx2.AsyncClient,
) -> None:
    response = await alice.post(f"{ITEMS}/export")
    assert response.status_code == 202
    status = await alice.get(response.headers["Location"])
    assert status.status_code == 200
    assert status.json()["id"] == response.json()["id"]


async def test_the_total_is_for_admins(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    total = f"{ITEMS}/total"
    if "security" in app.openapi()["paths"][total]["get"]:
        assert (await alice.get(total)).status_code == 403
    bob.headers.update(await sign_in_with(app, bob, "root@example.com", "admin"))
    before = (await bob.get(total)).json()["items"]
    await create_item(alice)
    assert (await bob.get(total)).json() == {"items": before + 1}


async def test_exports_are_limited(alice: httpx2.AsyncClient) -> None:
    statuses = [(await alice.post(f"{ITEMS}/export")).status_code for _ in range(11)]
    assert statuses == [202] * 10 + [429]


async def test_a_deletion_is_logged_once_it_is_committed(
    alice: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    url = (await create_item(alice)).headers["Location"]
    capfd.readouterr()
    await alice.delete(url, headers={"If-Match": '"0"'})
    assert "item deleted" not in capfd.readouterr().out
    await alice.delete(url)
    assert "item deleted" in capfd.readouterr().out
