"""Batches of items, and a download of all."""

import json

import httpx2
from fastapi import FastAPI

from tests.items.factories import ItemFactory


async def test_a_batch_creates_items_that_the_download_has(alice: httpx2.AsyncClient) -> None:
    parts = [{"name": "Fluke", "quantity": 2}]
    items = [{"name": "Anchor", "parts": parts}, {"name": "=SUM(A1)"}]
    created = await alice.post("/api/v1/items/batch", json={"items": items})
    assert (created.status_code, created.json()["failed"]) == (207, 0)
    assert [each["status"] for each in created.json()["results"]] == [201, 201]

    lines = await alice.get("/api/v1/items/download?format=jsonl")
    assert [line["parts"] for line in map(json.loads, lines.text.splitlines())].count(parts) == 1
    table = await alice.get("/api/v1/items/download")
    assert ",'=SUM(A1)," in table.text


async def test_a_download_is_one_query(alice: httpx2.AsyncClient, queries: list[str]) -> None:
    items = [{"name": f"Anchor {n}", "parts": [{"name": "Fluke"}]} for n in range(20)]
    await alice.post("/api/v1/items/batch", json={"items": items})
    queries.clear()
    await alice.get("/api/v1/items/download")
    assert len([each for each in queries if "FROM items" in each]) == 1


async def test_a_download_has_no_items_of_others(app: FastAPI, alice: httpx2.AsyncClient) -> None:
    async with app.state.db.transaction() as session:
        session.add_all(ItemFactory.batch(3, owner="someone else"))
    table = await alice.get("/api/v1/items/download")
    assert len(table.text.splitlines()) == 1  # the header
