"""Two hundred concurrent requests for the same thing, to two processes under Gunicorn."""

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
# All requests must reach the database and wait there: no limits and no timeouts before that.
SETTINGS = {
    "RATE_LIMIT": "off",
    "REGISTRATION_LIMIT": "100000/hour",
    "DB_POOL_TIMEOUT": "60",
    "REQUEST_TIMEOUT": "120",
    "DB_STATEMENT_TIMEOUT": "60",
}
ITEMS = "/api/v1/items"

Send = Callable[[httpx2.AsyncClient, int], Awaitable[httpx2.Response]]
Clients = list[httpx2.AsyncClient]


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(**SETTINGS)
    server.until(lambda: len(server.workers()) == 2, 60)
    return server


@pytest.fixture
async def clients(server: Server) -> AsyncIterator[Clients]:
    """Clients with open connections, distributed over both processes."""
    async with AsyncExitStack() as stack:
        clients = [httpx2.AsyncClient(base_url=server.url, timeout=120) for _ in range(CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
        pids = await asyncio.gather(*(client.get("/test/pid") for client in clients))
        assert len({answer.json() for answer in pids}) == 2, "all connections are to one process"
        yield clients


async def race(clients: Clients, send: Send) -> list[httpx2.Response]:
    """Send one request per client, all at once."""
    return await asyncio.gather(*(send(client, number) for number, client in enumerate(clients)))


async def race_for_a_row(
    clients: Clients, send: Send, url: URL, item_id: str
) -> list[httpx2.Response]:
    """Let concurrent requests read the item before the first of them updates it."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with open_connection(url) as holder, open_connection(url) as watcher:
        await holder.execute(text(f"SELECT 1 FROM items WHERE id = '{item_id}' FOR UPDATE"))
        racing = asyncio.create_task(race(clients, send))
        while (await watcher.execute(text(waiting))).scalar_one() < 4:
            assert not racing.done(), "no request waited for the row"
            await watcher.rollback()
            await asyncio.sleep(0.05)
        await holder.rollback()
        return await racing


def count(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def no_errors(server: Server) -> bool:
    return not [line for line in server.lines() if line["level"] == "error"]


async def test_one_of_200_concurrent_changes_to_an_item_succeeds(
    server: Server, clients: Clients, environment: dict[str, str], note: Note
) -> None:
    url = make_url(environment["DATABASE_URL"])
    alice = await sign_in(clients[0], "alice@example.com")
    losers: Counter[int] = Counter()
    for _ in range(ROUNDS):
        made = await clients[0].post(ITEMS, json={"name": "Anchor"}, headers=alice)
        where, headers = made.headers["Location"], alice | {"If-Match": made.headers["ETag"]}

        async def change(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            body = {"name": f"Change {number}"}
            return await client.patch(where, json=body, headers=headers)  # noqa: B023

        async def change_or_remove(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            if number % 2:
                return await client.delete(where, headers=headers)  # noqa: B023
            # No number of the first race: a change to the same name changes nothing, and succeeds.
            return await change(client, CLIENTS + number)

        item_id = made.json()["id"]
        answers = await race_for_a_row(clients, change, url, item_id)
        [won] = [answer for answer in answers if answer.is_success]
        assert set(count(answers)) == {200, 409, 412}
        now = await clients[0].get(where, headers=alice)
        assert now.json() == won.json()
        losers += count(answers)

        headers["If-Match"] = now.headers["ETag"]
        answers = await race_for_a_row(clients, change_or_remove, url, item_id)
        [won] = [answer for answer in answers if answer.is_success]
        assert set(count(answers)) <= {200, 204, 404, 409, 412}
        left = await clients[0].get(where, headers=alice)
        assert left.status_code == (404 if won.status_code == 204 else 200)
        losers += count(answers)
    assert no_errors(server)
    note(clients=CLIENTS, races=2 * ROUNDS, winners=2 * ROUNDS, answers=dict(losers))


async def test_200_concurrent_uses_of_a_refresh_token_return_the_same_tokens(
    server: Server, clients: Clients, note: Note
) -> None:
    for _ in range(ROUNDS):
        email = f"{uuid4().hex}@example.com"
        await register(clients[0], email)
        token = (await log_in(clients[0], email)).json()["refresh_token"]

        async def refresh(client: httpx2.AsyncClient, _: int) -> httpx2.Response:
            body = {"refresh_token": token}  # noqa: B023
            return await client.post("/api/v1/auth/refresh", json=body)

        answers = await race(clients, refresh)
        assert count(answers) == {200: CLIENTS}
        assert len({a.json()["refresh_token"] for a in answers}) == 1
        assert len({a.json()["access_token"] for a in answers}) == 1
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, pairs_of_tokens=ROUNDS)


async def test_one_of_200_concurrent_registrations_of_an_address_succeeds(
    server: Server, clients: Clients, note: Note
) -> None:
    for _ in range(ROUNDS):
        name = uuid4().hex

        async def make_account(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            written = name.upper() if number % 2 else name  # noqa: B023
            return await register(client, f"{written}@example.com")

        assert count(await race(clients, make_account)) == {201: 1, 409: CLIENTS - 1}
        assert (await log_in(clients[0], f"{name}@example.com")).is_success
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, winners=ROUNDS)


async def test_200_concurrent_requests_enqueue_one_unique_job(
    server: Server, clients: Clients, note: Note
) -> None:
    for number in range(ROUNDS):
        caller = await sign_in(clients[0], f"caller-{number}@example.com")

        async def export(client: httpx2.AsyncClient, _: int) -> httpx2.Response:
            return await client.post(f"{ITEMS}/export", headers=caller)  # noqa: B023

        answers = await race(clients, export)
        assert count(answers) == {202: CLIENTS}
        assert len({answer.json()["id"] for answer in answers}) == 1
    assert no_errors(server)
    note(clients=CLIENTS, races=ROUNDS, jobs=ROUNDS)
