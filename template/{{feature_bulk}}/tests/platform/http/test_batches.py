"""Each item of a batch has its own status, or all of them share their fate."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.platform.base.errors import Conflict
from app.platform.data.database import SessionDep
from app.platform.http.batches import MAX_ITEMS, Batch, BatchRequest, run_batch
from app.settings import Settings
from tests.conftest import client_for, running_platform


async def insert(batch: BatchRequest[int], session: SessionDep) -> Batch[int]:
    async def run(number: int) -> int:
        await session.execute(text("INSERT INTO numbers_of_a_test VALUES (:n)"), {"n": number})
        if number < 0:
            raise Conflict("It is negative.")
        if number == 0:
            raise ZeroDivisionError
        return number

    return await run_batch(session, batch, run)


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(module_settings) as app:
        async with app.state.db.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE numbers_of_a_test (n integer UNIQUE)"))
        app.add_api_route("/numbers", insert, methods=["POST"], status_code=207)
        yield app
        async with app.state.db.engine.begin() as connection:
            await connection.execute(text("DROP TABLE numbers_of_a_test"))


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


async def stored(service: FastAPI) -> list[int]:
    async with service.state.db.transaction() as session:
        return list(await session.scalars(text("SELECT n FROM numbers_of_a_test ORDER BY n")))


async def test_an_item_that_fails_leaves_the_others(
    service: FastAPI, client: httpx2.AsyncClient
) -> None:
    response = await client.post("/numbers", json={"items": [1, -2, 3]})
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["failed"]) == (207, 1)
    assert [each["status"] for each in body["results"]] == [201, 409, 201]
    assert [each["item"] for each in body["results"]] == [1, None, 3]
    problem = body["results"][1]["problem"]
    assert (problem["code"], problem["detail"]) == ("conflict", "It is negative.")
    assert await stored(service) == [1, 3]


async def test_in_an_atomic_batch_an_item_that_fails_undoes_all(
    service: FastAPI, client: httpx2.AsyncClient
) -> None:
    response = await client.post("/numbers", json={"items": [1, -2, 3], "atomic": True})
    assert (response.status_code, response.json()["detail"]) == (409, "Item 1: It is negative.")
    assert await stored(service) == []
    response = await client.post("/numbers", json={"items": [1, 2], "atomic": True})
    assert (response.status_code, response.json()["failed"]) == (207, 0)
    assert await stored(service) == [1, 2]


async def test_an_item_that_postgres_refuses_leaves_the_others(
    service: FastAPI, client: httpx2.AsyncClient
) -> None:
    response = await client.post("/numbers", json={"items": [1, 1, 3]})
    assert [each["status"] for each in response.json()["results"]] == [201, 409, 201]
    assert await stored(service) == [1, 3]
    response = await client.post("/numbers", json={"items": [4, 3], "atomic": True})
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert response.json()["detail"].startswith("Item 1: ")
    assert await stored(service) == [1, 3]


async def test_a_fault_undoes_all_items(service: FastAPI, client: httpx2.AsyncClient) -> None:
    response = await client.post("/numbers", json={"items": [1, 0]})
    assert response.status_code == 500
    assert await stored(service) == []


async def test_a_number_is_not_a_choice_of_atomic(client: httpx2.AsyncClient) -> None:
    response = await client.post("/numbers", json={"items": [1], "atomic": 0})
    assert response.status_code == 422


@pytest.mark.parametrize("items", [[], [1] * (MAX_ITEMS + 1), [1, "x"]])
async def test_a_batch_of_another_size_or_with_an_invalid_item_is_refused(
    service: FastAPI, client: httpx2.AsyncClient, items: list[Any]
) -> None:
    response = await client.post("/numbers", json={"items": items})
    assert (response.status_code, response.json()["code"]) == (422, "invalid")
    assert await stored(service) == []


async def test_a_batch_larger_than_a_body_may_be_is_refused_unread(
    service: FastAPI, client: httpx2.AsyncClient
) -> None:
    size = service.state.settings.max_body_size
    response = await client.post("/numbers", content=b" " * (size + 1))
    assert response.status_code == 413
