"""Operations on items, without HTTP: rows from a factory, read by the service."""

import pytest
from fastapi import FastAPI

from app.items import jobs, service
from app.items.jobs import count_items, export_items
from app.items.models import Item
from app.platform.data.listing import ListQuery
from app.platform.jobs import BACKGROUND_PROCESSES, registry
from tests.items.factories import ItemFactory
from tests.jobs import run_job


async def insert(app: FastAPI, *items: Item) -> None:
    async with app.state.db.transaction() as session:
        session.add_all(items)


async def test_a_list_has_all_items_of_its_owner_and_no_others(app: FastAPI) -> None:
    await insert(app, *ItemFactory.batch(3, owner="ada"), *ItemFactory.batch(2, owner="bob"))

    items = await service.list_items(app.state.read_session, "ada", ListQuery(100))
    assert len(items) == 3
    assert await service.list_items(app.state.read_session, "eve", ListQuery(100)) == []


async def test_a_page_continues_among_items_of_the_same_time(app: FastAPI) -> None:
    """Rows of one transaction have the same ``created_at``: their ids decide."""
    await insert(app, *ItemFactory.batch(7, owner="ada"))

    query = ListQuery(4)
    first = (await service.list_items(app.state.read_session, "ada", query))[:4]
    after = service.LISTING.position(query, first[-1])
    rest = await service.list_items(app.state.read_session, "ada", ListQuery(100, after=after))
    assert len({item.created_at for item in (*first, *rest)}) == 1
    assert len({item.id for item in (*first, *rest)}) == 7


async def test_an_export_has_a_line_for_each_item_of_its_owner(app: FastAPI) -> None:
    await insert(app, *ItemFactory.batch(3, owner="ada"), *ItemFactory.batch(2, owner="bob"))
    export = await run_job(app, export_items, owner="ada")
    assert export["items"] == len(export["lines"].splitlines()) == 3
    assert export["complete"]


async def test_an_export_says_whether_items_are_missing(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAGE_SIZE", 2)
    monkeypatch.setattr(jobs, "MAX_ITEMS", 4)
    await insert(app, *ItemFactory.batch(4, owner="ada"), *ItemFactory.batch(5, owner="bob"))
    exports = [await run_job(app, export_items, owner=owner) for owner in ("ada", "bob")]
    assert [(each["items"], each["complete"]) for each in exports] == [(4, True), (4, False)]


async def test_all_items_are_counted_every_night(app: FastAPI) -> None:
    before = await run_job(app, count_items)
    await insert(app, *ItemFactory.batch(3, owner="ada"), *ItemFactory.batch(2, owner="bob"))
    assert await run_job(app, count_items) == before + 5
    scheduled = {each.name for each in registry.scheduled()}
    assert ("items.count_items" in scheduled) == ("worker" in BACKGROUND_PROCESSES)
