"""Copying an item is safe to repeat with an idempotency key."""

import httpx2

ITEMS = "/api/v1/items"
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


async def create(client: httpx2.AsyncClient) -> str:
    body = {"name": "Anchor", "description": "Forged", "parts": [{"name": "Fluke", "quantity": 2}]}
    response = await client.post(ITEMS, json=body)
    return f"{ITEMS}/{response.json()['id']}/copies"


async def total(client: httpx2.AsyncClient) -> int:
    return len((await client.get(ITEMS)).json()["items"])


async def test_a_copy_has_the_same_content(alice: httpx2.AsyncClient) -> None:
    response = await alice.post(await create(alice))
    copy = response.json()
    assert response.status_code == 201
    assert (copy["name"], copy["description"]) == ("Anchor", "Forged")
    assert copy["parts"] == [{"name": "Fluke", "quantity": 2}]
    assert (await alice.get(response.headers["Location"])).json() == copy


async def test_a_repeated_request_makes_no_second_copy(alice: httpx2.AsyncClient) -> None:
    url = await create(alice)
    before = await total(alice)
    first, second = [await alice.post(url, headers=KEY) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert await total(alice) == before + 1


async def test_without_a_key_each_request_makes_a_copy(alice: httpx2.AsyncClient) -> None:
    url = await create(alice)
    first, second = [await alice.post(url) for _ in range(2)]
    assert first.json()["id"] != second.json()["id"]
