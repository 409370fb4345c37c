"""Notes on an item reach those who watch it, and nobody who may not read it."""

from uuid import uuid4

import httpx2
from fastapi import FastAPI

from tests.streams import open_stream


async def new_item(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/api/v1/items", json={"name": "Anchor"})
    return str(answer.json()["id"])


async def test_a_note_reaches_those_who_watch_the_item(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    path = f"/api/v1/items/{await new_item(alice)}"
    async with open_stream(app, f"{path}/events", dict(alice.headers)) as stream:
        sent = await alice.post(f"{path}/notes", json={"text": "Sold."})
        assert sent.status_code == 204
        event = await stream.event()
    assert (event["event"], event["data"]) == ("Note", '{"text":"Sold."}')


async def test_an_item_that_is_missing_can_not_be_watched(alice: httpx2.AsyncClient) -> None:
    for method, tail in (("GET", "events"), ("POST", "notes")):
        path = f"/api/v1/items/{uuid4()}/{tail}"
        answer = await alice.request(method, path, json={"text": "Sold."})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
