"""The example feature, through its API."""

import asyncio

import httpx2
import pytest

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app

ITEMS = "/api/v1/items"


async def make(client: httpx2.AsyncClient, name: str = "Anchor") -> httpx2.Response:
    answer = await client.post(ITEMS, json={"name": name, "description": "Forged"})
    assert answer.status_code == 201, answer.text
    return answer


async def test_an_item_can_be_made_read_changed_and_removed(alice: httpx2.AsyncClient) -> None:
    made = await make(alice, "  Anchor ")
    where = made.headers["Location"]
    assert made.json()["name"] == "Anchor"

    assert (await alice.get(where)).json() == made.json()

    changed = await alice.patch(where, json={"description": "Forged, 40 kg"})
    assert changed.json()["description"] == "Forged, 40 kg"
    assert changed.json()["name"] == "Anchor"

    assert (await alice.delete(where)).status_code == 204
    assert (await alice.get(where)).status_code == 404


async def test_what_the_client_has_is_not_sent_again(alice: httpx2.AsyncClient) -> None:
    where = (await make(alice)).headers["Location"]
    first = await alice.get(where)
    assert "private" in first.headers["Cache-Control"]

    for condition in (
        {"If-None-Match": first.headers["ETag"]},
        {"If-None-Match": f'"other", W/{first.headers["ETag"]}'},
        {"If-Modified-Since": first.headers["Last-Modified"]},
    ):
        again = await alice.get(where, headers=condition)
        assert (again.status_code, again.content) == (304, b""), condition
        assert again.headers["ETag"] == first.headers["ETag"]

    await alice.patch(where, json={"name": "Anchor, new"})
    condition = {"If-None-Match": first.headers["ETag"]}
    assert (await alice.get(where, headers=condition)).json()["name"] == "Anchor, new"


@pytest.mark.parametrize(
    ("since", "status"),
    [
        ("Fri, 31 Dec 9999 23:59:59 GMT", 304),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 200),
        ("Fri, 31 Dec 2020 99999999999999999999:59:59 GMT", 200),
        ("Fri, 31 Dec 2020 23:59:59 +999999999999", 200),
        ("yesterday", 200),
    ],
)
async def test_a_date_that_is_none_is_no_condition(
    alice: httpx2.AsyncClient, since: str, status: int
) -> None:
    where = (await make(alice)).headers["Location"]
    answer = await alice.get(where, headers={"If-Modified-Since": since})
    assert answer.status_code == status


async def test_a_change_of_something_else_than_was_read_is_refused(
    alice: httpx2.AsyncClient,
) -> None:
    made = await make(alice)
    where, etag = made.headers["Location"], made.headers["ETag"]
    first = await alice.patch(where, json={"name": "One"}, headers={"If-Match": etag})
    second = await alice.patch(where, json={"name": "Two"}, headers={"If-Match": etag})
    assert (first.status_code, second.status_code) == (200, 412)
    assert (await alice.delete(where, headers={"If-Match": etag})).status_code == 412
    assert (await alice.get(where)).json()["name"] == "One"


async def test_pages_hold_each_item_once_even_when_items_come_in_between(
    alice: httpx2.AsyncClient,
) -> None:
    made = [(await make(alice, f"Item {n}")).json()["id"] for n in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await alice.get(ITEMS, params=query)).json()
        seen += [item["id"] for item in page["items"]]
        await make(alice, "In between")
        if not (cursor := page["next"]):
            break
    assert len(seen) == len(set(seen))
    assert set(made) <= set(seen)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=10000", "limit=x"])
async def test_a_page_has_a_largest_size(alice: httpx2.AsyncClient, query: str) -> None:
    assert (await alice.get(f"{ITEMS}?{query}")).status_code == 422


async def test_a_cursor_can_not_be_made_up(alice: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await make(alice)
    cursor = (await alice.get(ITEMS, params={"limit": 1})).json()["next"]
    assert (await alice.get(ITEMS, params={"cursor": cursor})).status_code == 200
    swapped = cursor[:30] + ("A" if cursor[30] != "A" else "B") + cursor[31:]
    for forged in (swapped, cursor[:-4], "x", "é", "' OR 1=1 --", ""):
        answer = await alice.get(ITEMS, params={"cursor": forged})
        assert answer.status_code == 400, forged
        assert answer.headers["Content-Type"] == "application/problem+json"


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
        [],
        None,
    ],
)
async def test_what_is_no_item_is_refused(alice: httpx2.AsyncClient, body: object) -> None:
    answer = await alice.post(ITEMS, json=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_text_in_any_language_comes_back_as_it_was(alice: httpx2.AsyncClient) -> None:
    for text in ("Ⅷ ﷽ 👩‍👩‍👧", "'; DROP TABLE items; --", "{{ 7*7 }}", "\u202eabc", "\r\nx: y"):
        made = await alice.post(ITEMS, json={"name": f"n{text}", "description": text})
        read = await alice.get(made.headers["Location"])
        assert read.json()["description"] == text


async def test_of_many_changes_at_once_exactly_one_wins(fresh_settings: Settings) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        made = await make(client)
        etag = {"If-Match": made.headers["ETag"]}

        async def change(number: int) -> int:
            where = made.headers["Location"]
            body = {"name": f"Change {number}"}
            return (await client.patch(where, json=body, headers=etag)).status_code

        statuses = await asyncio.gather(*(change(number) for number in range(50)))
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 409, 412}


async def test_the_export_is_accepted_and_can_be_asked_for(
    alice: httpx2.AsyncClient,
) -> None:
    answer = await alice.post(f"{ITEMS}/export")
    assert answer.status_code == 202
    status = await alice.get(answer.headers["Location"])
    assert status.status_code == 200
    assert status.json()["id"] == answer.json()["id"]
