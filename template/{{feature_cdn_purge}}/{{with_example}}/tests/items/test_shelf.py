"""A CDN may store the size of the shelf, and forgets it when there is one item more."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.data.cdn import PROVIDERS


async def test_an_item_on_the_shelf_purges_its_size(
    app: FastAPI, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.cdn, "provider", PROVIDERS["fastly"])
    purged: list[Any] = []
    monkeypatch.setattr(app.state.cdn, "purge", lambda *keys: purged.extend(keys))
    before = await alice.get("/api/v1/items/shelf")
    assert before.headers["Surrogate-Key"] == "shelf"
    assert before.headers["Cache-Control"] == "public, max-age=0, s-maxage=3600"
    refused = await alice.post("/api/v1/items/shelf", json={"name": ""})
    assert (refused.status_code, purged) == (422, [])
    made = await alice.post("/api/v1/items/shelf", json={"name": "Anchor"})
    assert (made.status_code, purged) == (201, ["shelf"])
    after = await alice.get("/api/v1/items/shelf")
    assert after.json()["items"] == before.json()["items"] + 1
