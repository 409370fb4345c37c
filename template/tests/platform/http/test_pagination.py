"""Cursors: signed, and valid for one list only."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI

from app.platform.http import problems
from app.platform.http.pagination import Page, Paging, paging
from app.platform.settings import offline_settings
from app.settings import Settings
from tests.conftest import client_for

Position = tuple[int]


def list_numbers(name: str) -> object:
    """A route that lists the numbers from 0 to 9."""

    async def numbers(
        page: Annotated[Paging[Position], Depends(paging(name, Position))],
    ) -> Page[int]:
        start = page.after[0] + 1 if page.after else 0
        return page.page(range(start, 10)[: page.limit + 1], lambda number: (number,))

    return numbers


@pytest.fixture
async def lists() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app with two lists of the same type."""
    app = FastAPI()
    app.state.settings = offline_settings(Settings)
    problems.setup(app, app.state.settings)
    for name in ("odd", "even"):
        app.add_api_route(f"/{name}", list_numbers(name))  # type: ignore[arg-type]
    async with client_for(app) as client:
        yield client


async def page_after(client: httpx2.AsyncClient, path: str, cursor: str) -> httpx2.Response:
    return await client.get(path, params={"limit": 3, "cursor": cursor})


async def test_a_cursor_continues_its_list(lists: httpx2.AsyncClient) -> None:
    first = (await lists.get("/odd", params={"limit": 3})).json()
    second = (await page_after(lists, "/odd", first["next"])).json()
    assert (first["items"], second["items"]) == ([0, 1, 2], [3, 4, 5])


async def test_a_cursor_of_another_list_is_refused(lists: httpx2.AsyncClient) -> None:
    cursor = (await lists.get("/odd", params={"limit": 3})).json()["next"]
    response = await page_after(lists, "/even", cursor)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("signature", ["kept", "missing", "zeros"])
async def test_a_cursor_with_another_position_is_refused(
    lists: httpx2.AsyncClient, signature: str
) -> None:
    cursor = (await lists.get("/odd", params={"limit": 3})).json()["next"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert raw.endswith(b"[2]")
    prefix = {"kept": raw[:-3], "missing": b"", "zeros": bytes(len(raw) - 3)}[signature]
    forged = base64.urlsafe_b64encode(prefix + b"[7]").rstrip(b"=").decode()
    assert (await page_after(lists, "/odd", forged)).status_code == 400
