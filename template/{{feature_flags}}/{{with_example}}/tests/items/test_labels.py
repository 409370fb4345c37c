"""Labels have the layout that the flag decides."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI


@pytest.mark.parametrize(("short", "lines"), [(False, 2), (True, 1)])
async def test_a_label_is_short_for_those_who_have_the_flag(
    app: FastAPI,
    alice: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    short: bool,
    lines: int,
) -> None:
    fixed: dict[str, Any] = {"short-labels": short}
    monkeypatch.setattr(app.state.flags.provider, "_fixed", fixed)
    item = (await alice.post("/api/v1/items", json={"name": "Anchor"})).json()
    label = (await alice.get(f"/api/v1/items/{item['id']}/label")).json()
    assert label["lines"][0] == "Anchor"
    assert len(label["lines"]) == lines
