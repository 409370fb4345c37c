"""Two hundred clients want the same thing at the same moment, of two processes under Gunicorn."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import URL, make_url, text

from tests.accounts import log_in, register
from tests.actors import sign_in
from tests.conftest import open_connection
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve as serve
from tests.system.serving import Serve, Server

CLIENTS = 200
ROUNDS = 10 if FULL else 1
# They are to meet in the database, so nobody is sent away before, and nobody loses patience there.
CHANGES = {
    "RATE_LIMIT": "off",
    "REGISTRATION_LIMIT": "100000/hour",
    "DB_POOL_TIMEOUT": "60",
    "REQUEST_TIMEOUT": "120",
    "DB_STATEMENT_TIMEOUT": "60",
}
ITEMS = "/api/v1/items"

Ask = Callable[[httpx2.AsyncClient, int], Awaitable[httpx2.Response]]
Crowd = list[httpx2.AsyncClient]


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(**CHANGES)
    server.until(lambda: len(server.workers()) == 2, 60)
    return server


@pytest.fixture
async def crowd(server: Server) -> AsyncIterator[Crowd]:
    """Clients, each with a connection of its own that is open already."""
    async with AsyncExitStack() as stack:
        clients = [httpx2.AsyncClient(base_url=server.url, timeout=120) for _ in range(CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
        pids = await asyncio.gather(*(client.get("/test/pid") for client in clients))
        assert len({answer.json() for answer in pids}) == 2, "both processes have some of them"
        yield clients


async def race(crowd: Crowd, ask: Ask) -> list[httpx2.Response]:
    """Let everybody ask at once."""
    return await asyncio.gather(*(ask(client, number) for number, client in enumerate(crowd)))


async def race_for_a_row(crowd: Crowd, ask: Ask, url: URL, item_id: str) -> list[httpx2.Response]:
    """Let those who get a connection all read the item before the first of them changes it."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with open_connection(url) as holder, open_connection(url) as watcher:
        await holder.execute(text(f"SELECT 1 FROM items WHERE id = '{item_id}' FOR UPDATE"))
        racing = asyncio.create_task(race(crowd, ask))
        while (await watcher.execute(text(waiting))).scalar_one() < 4:
            assert not racing.done(), "nobody waited for the row"
            await watcher.rollback()
            await asyncio.sleep(0.05)
        await holder.rollback()
        return await racing


def count(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def no_errors(server: Server) -> bool:
    return not [line for line in server.lines() if line["level"] == "error"]


async def test_of_200_changes_and_removals_of_one_item_one_wins(
    server: Server, crowd: Crowd, environment: dict[str, str], note: Note
) -> None:
    url = make_url(environment["DATABASE_URL"])
    alice = await sign_in(crowd[0], "alice@example.com")
    losers: Counter[int] = Counter()
    for _ in range(ROUNDS):
        made = await crowd[0].post(ITEMS, json={"name": "Anchor"}, headers=alice)
        where, headers = made.headers["Location"], alice | {"If-Match": made.headers["ETag"]}

        async def change(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            body = {"name": f"Change {number}"}
            return await client.patch(where, json=body, headers=headers)  # noqa: B023

        async def change_or_remove(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            if number % 2:
                return await client.delete(where, headers=headers)  # noqa: B023
            return await change(client, number)

        item_id = made.json()["id"]
        answers = await race_for_a_row(crowd, change, url, item_id)
        [won] = [answer for answer in answers if answer.is_success]
        assert set(count(answers)) == {200, 409, 412}
        now = await crowd[0].get(where, headers=alice)
        assert now.json() == won.json()
        losers += count(answers)

        headers["If-Match"] = now.headers["ETag"]
        answers = await race_for_a_row(crowd, change_or_remove, url, item_id)
        [won] = [answer for answer in answers if answer.is_success]
        assert set(count(answers)) <= {200, 204, 404, 409, 412}
        left = await crowd[0].get(where, headers=alice)
        assert left.status_code == (404 if won.status_code == 204 else 200)
        losers += count(answers)
    assert no_errors(server)
    note(clients=CLIENTS, races=2 * ROUNDS, winners=2 * ROUNDS, answers=dict(losers))


async def test_of_200_uses_of_one_refresh_token_one_wins(
    server: Server, crowd: Crowd, note: Note
) -> None:
    for _ in range(ROUNDS):
        email = f"{uuid4().hex}@example.com"
        await register(crowd[0], email)
        token = (await log_in(crowd[0], email)).json()["refresh_token"]

        async def refresh(client: httpx2.AsyncClient, _: int) -> httpx2.Response:
            body = {"refresh_token": token}  # noqa: B023
            return await client.post("/api/v1/auth/refresh", json=body)

        assert count(await race(crowd, refresh)) == {200: 1, 401: CLIENTS - 1}
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, winners=ROUNDS)


async def test_of_200_registrations_of_one_address_one_wins(
    server: Server, crowd: Crowd, note: Note
) -> None:
    for _ in range(ROUNDS):
        name = uuid4().hex

        async def make_account(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            written = name.upper() if number % 2 else name  # noqa: B023
            return await register(client, f"{written}@example.com")

        assert count(await race(crowd, make_account)) == {201: 1, 409: CLIENTS - 1}
        assert (await log_in(crowd[0], f"{name}@example.com")).is_success
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, winners=ROUNDS)


async def test_200_requests_start_one_unique_job(server: Server, crowd: Crowd, note: Note) -> None:
    for number in range(ROUNDS):
        caller = await sign_in(crowd[0], f"caller-{number}@example.com")

        async def export(client: httpx2.AsyncClient, _: int) -> httpx2.Response:
            return await client.post(f"{ITEMS}/export", headers=caller)  # noqa: B023

        answers = await race(crowd, export)
        assert count(answers) == {202: CLIENTS}
        assert len({answer.json()["id"] for answer in answers}) == 1
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, jobs=ROUNDS)
