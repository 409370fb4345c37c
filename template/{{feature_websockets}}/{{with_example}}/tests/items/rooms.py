"""The room of an item for tests: a service with real connections, and a caller."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.server.test_connection_limits import Listener, served


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Listener, httpx2.AsyncClient]]:
    """A service, and a client of it that is signed in."""
    async with running_app(settings) as app, served(app) as listener, client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        yield listener, client


def credential(client: httpx2.AsyncClient) -> dict[str, str]:
    """The header with the client's credential; empty if callers need none."""
    header = client.headers.get("Authorization")
    return {"Authorization": header} if header else {}


async def new_room(listener: Listener, client: httpx2.AsyncClient) -> str:
    """The URL of the room of a new item."""
    answer = await client.post("/api/v1/items", json={"name": "Anchor"})
    return f"ws://127.0.0.1:{listener.port}/api/v1/items/{answer.json()['id']}/room"
