"""Attachments of an item are those of its owner, and go with the item."""

import zlib
from uuid import uuid4

import httpx2

PNG = b"\x89PNG\r\n\x1a\n" + zlib.compress(b"a picture")


async def new_item(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/api/v1/items", json={"name": "Anchor"})
    return f"/api/v1/items/{answer.json()['id']}"


async def attach(client: httpx2.AsyncClient, item: str) -> httpx2.Response:
    return await client.post(f"{item}/attachments", params={"name": "anchor.png"}, content=PNG)


async def test_an_attachment_is_listed_read_and_deleted(alice: httpx2.AsyncClient) -> None:
    item = await new_item(alice)
    answer = await attach(alice, item)
    assert answer.status_code == 201, answer.text
    path = answer.headers["Location"]
    assert path == f"{item}/attachments/{answer.json()['id']}"
    listed = (await alice.get(f"{item}/attachments")).json()
    assert [(each["name"], each["state"]) for each in listed] == [("anchor.png", "stored")]
    assert (await alice.get(path)).content == PNG
    assert (await alice.delete(path)).status_code == 204
    assert (await alice.get(path)).status_code == 404
    assert (await alice.get(f"{item}/attachments")).json() == []


async def test_attachments_go_with_their_item(alice: httpx2.AsyncClient) -> None:
    item = await new_item(alice)
    path = (await attach(alice, item)).headers["Location"]
    assert (await alice.delete(item)).status_code == 204
    assert (await alice.get(path)).status_code == 404


async def test_nothing_is_attached_to_an_item_that_is_missing(alice: httpx2.AsyncClient) -> None:
    item = f"/api/v1/items/{uuid4()}"
    assert (await attach(alice, item)).status_code == 404
    assert (await alice.get(f"{item}/attachments")).status_code == 404
    assert (await alice.get(f"{item}/attachments/{uuid4()}")).status_code == 404
