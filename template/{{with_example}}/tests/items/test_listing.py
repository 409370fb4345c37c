"""Filters, sorts and fields of the items' list."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.items import service
from app.platform.data.listing import ListQuery
from tests.items.factories import ItemFactory
from tests.items.test_items import ITEMS, create_item

PARTIAL = f"{ITEMS}/partial"
NAMES = ["Éclair", "anchor", "Buoy", "Buoy", "Buoy", "Anchor", "Ω"]


async def read_all(
    client: httpx2.AsyncClient, path: str = ITEMS, **query: str
) -> list[dict[str, Any]]:
    """The items of all pages of two."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        params = {**query, "limit": "2"} | ({"cursor": cursor} if cursor else {})
        response = await client.get(path, params=params)
        assert response.status_code == 200, response.text
        items += response.json()["items"]
        if not (cursor := response.json()["next"]):
            return items


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("created_at", lambda item: (item["created_at"], item["id"])),
        ("name", lambda item: (NAMES.count(item["name"]), item["id"])),
    ],
)
async def test_pages_have_each_item_once_in_both_directions(
    alice: httpx2.AsyncClient, sort: str, key: Callable[[dict[str, Any]], Any]
) -> None:
    created = {(await create_item(alice, name)).json()["id"] for name in NAMES}

    ascending = await read_all(alice, sort=sort)
    descending = await read_all(alice, sort=f"-{sort}")
    assert {item["id"] for item in ascending} == created
    assert ascending == descending[::-1]
    equal = [item for item in ascending if item["name"] == "Buoy"]
    assert equal == sorted(equal, key=key)


async def test_a_filter_applies_to_all_pages(alice: httpx2.AsyncClient) -> None:
    for name in NAMES:
        await create_item(alice, name)
    assert len(await read_all(alice, name="Buoy")) == 3
    assert await read_all(alice, name="buoy") == []
    assert await read_all(alice, name="Buoy", created_before="2020-01-01T00:00:00Z") == []
    assert len(await read_all(alice, created_from="2020-01-01T00:00:00Z")) == len(NAMES)


async def test_every_time_of_rfc_3339_can_be_compared(alice: httpx2.AsyncClient) -> None:
    await create_item(alice)
    first, last = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"
    assert len(await read_all(alice, created_from=first, created_before=last)) == 1
    assert await read_all(alice, created_from=last) == []


async def test_a_period_has_its_first_moment_and_not_its_last(app: FastAPI) -> None:
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
    async with app.state.db.transaction() as session:
        session.add_all(ItemFactory.build(owner="ada", created_at=day) for day in days)

    period = {"created_from": days[1], "created_before": days[3]}
    query = ListQuery(10, "created_at", period)
    rows = await service.list_items(app.state.read_session, "ada", query)
    assert [row.created_at for row in rows] == days[1:3]


async def test_a_cursor_is_for_the_same_sort_and_filters_only(alice: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await create_item(alice)
    moment = "2020-01-01T00:00:00Z"
    queries: list[dict[str, str]] = [
        {},
        {"sort": "created_at"},
        {"sort": "name"},
        {"name": "Anchor"},
        {"created_from": moment},
        {"created_from": moment, "name": "Anchor"},
    ]
    for given in queries:
        page = await alice.get(ITEMS, params={**given, "limit": "1"})
        cursor = page.json()["next"]
        accepted = [
            other
            for other in queries
            if (await alice.get(ITEMS, params={**other, "cursor": cursor})).status_code == 200
        ]
        assert accepted == [given]
    again = {"created_from": "2020-01-01T01:00:00+01:00", "name": "Anchor", "cursor": cursor}
    assert (await alice.get(ITEMS, params=again)).status_code == 200


async def test_a_cursor_has_room_for_the_longest_name(alice: httpx2.AsyncClient) -> None:
    name = "\\" * 100 + "🪝" * 100
    created = {(await create_item(alice, name)).json()["id"] for _ in range(3)}
    assert {item["id"] for item in await read_all(alice, sort="name")} == created


async def test_only_the_chosen_fields_are_read_and_returned(
    alice: httpx2.AsyncClient, app: FastAPI
) -> None:
    created = (await create_item(alice)).json()

    for fields in ("id,name", "parts", "description,created_at"):
        items = (await alice.get(PARTIAL, params={"fields": fields})).json()["items"]
        assert items == [{name: created[name] for name in fields.split(",")}]
    repeated = await alice.get(f"{PARTIAL}?fields=id&fields=name")
    assert repeated.json()["items"] == [{"id": created["id"], "name": created["name"]}]
    sql = str(service.LISTING.select(ListQuery(1, fields=frozenset({"name"}))))
    assert "item_parts" not in sql
    assert "description" not in sql


async def test_partial_pages_continue_as_full_ones_do(alice: httpx2.AsyncClient) -> None:
    for name in NAMES:
        await create_item(alice, name)
    full = await read_all(alice, sort="-name")
    partial = await read_all(alice, PARTIAL, sort="-name", fields="version,name")
    assert partial == [{"name": item["name"], "version": 1} for item in full]


@pytest.mark.parametrize(
    ("path", "query", "wrong"),
    [
        (ITEMS, "colour=red", "colour"),
        (ITEMS, "nam=Anchor", "nam"),
        (ITEMS, "fields=id", "fields"),
        (ITEMS, "sort=owner", "sort"),
        (ITEMS, "sort=name;drop", "sort"),
        (ITEMS, "sort=", "sort"),
        (ITEMS, "name=%00", "name"),
        (ITEMS, "created_from=yesterday", "created_from"),
        (ITEMS, "created_from=2026-01-01T00:00:00", "created_from"),
        (ITEMS, "created_from=0.5", "created_from"),
        (ITEMS, "created_from=2026-01-01T00:00Z", "created_from"),
        (PARTIAL, "", "fields"),
        (PARTIAL, "fields=", "fields"),
        (PARTIAL, "fields=id,owner", "fields"),
        (PARTIAL, "fields=id,", "fields"),
    ],
)
async def test_an_unknown_name_or_value_is_refused(
    alice: httpx2.AsyncClient, path: str, query: str, wrong: str
) -> None:
    response = await alice.get(f"{path}?{query}")
    assert response.status_code == 422
    assert {error["location"][1] for error in response.json()["errors"]} == {wrong}


async def test_openapi_has_the_names(app: FastAPI) -> None:
    operations = app.openapi()["paths"]
    declared = operations[PARTIAL]["get"]["parameters"]
    parameters = {each["name"]: each for each in declared if each.get("in") == "query"}
    assert parameters["sort"]["schema"]["enum"] == ["created_at", "-created_at", "name", "-name"]
    assert parameters["fields"]["required"]
    assert "parts" in parameters["fields"]["schema"]["items"]["enum"]
    created_from = {"type": "string", "format": "date-time", "title": "Created From"}
    assert parameters["created_from"]["schema"] == created_from
    schema = app.openapi()["components"]["schemas"]["PartialItem"]
    assert "required" not in schema
    assert schema["properties"]["name"] == {
        "examples": ["Anchor"],
        "title": "Name",
        "type": "string",
    }
