"""Callers of a room: by header or first message, until their credential is revoked."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.settings import Settings
from tests.actors import REVOCATIONS, sign_in
from tests.items.rooms import credential, new_room, serving
from tests.platform.server.test_connection_limits import Listener

Serving = tuple[Listener, httpx2.AsyncClient]


@pytest.fixture(scope="module")
async def service(module_settings: Settings) -> AsyncIterator[Serving]:
    changes = {"websocket_recheck": 0.05, "websocket_authentication_timeout": 0.3}
    async with serving(module_settings.model_copy(update=changes)) as service:
        yield service


async def until_closed(client: ClientConnection) -> tuple[list[dict[str, str]], int | None]:
    """The messages until the server closes, and its code."""
    messages = []
    async with asyncio.timeout(10):
        try:
            while True:
                messages.append(json.loads(await client.recv()))
        except ConnectionClosed:
            return messages, client.close_code


async def test_a_client_that_sends_no_header_sends_its_token_first(service: Serving) -> None:
    url, header = await new_room(*service), credential(service[1])
    async with connect(url) as client:
        token = header["Authorization"].removeprefix("Bearer ")
        await client.send(json.dumps({"type": "authenticate", "token": token}))
        assert json.loads(await client.recv())["type"] == "joined"


@pytest.mark.parametrize(
    "first", ['{"type":"authenticate","token":"made up"}', '{"type":"say","text":"x"}', "{", b"{"]
)
async def test_a_first_message_without_a_valid_token_closes_the_websocket(
    service: Serving, first: str | bytes
) -> None:
    async with connect(await new_room(*service)) as client:
        await client.send(first)
        assert await until_closed(client) == ([], 1008)


async def test_a_client_that_does_not_authenticate_in_time_is_closed(service: Serving) -> None:
    async with connect(await new_room(*service)) as client:
        assert await until_closed(client) == ([], 1008)


async def test_an_invalid_credential_is_refused_before_the_handshake(service: Serving) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(
            await new_room(*service), additional_headers={"Authorization": "Bearer made up"}
        )
    assert refusal.value.response.status_code == 401


async def test_another_callers_room_is_not_found(service: Serving) -> None:
    listener, alice = service
    url = await new_room(listener, alice)
    bob = await sign_in(alice, "bob@example.com")
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, additional_headers=bob)
    assert refusal.value.response.status_code == 404


async def test_a_revoked_credential_ends_the_websocket(service: Serving) -> None:
    listener, alice = service
    revoke = next(iter(REVOCATIONS.values()))
    email = "carol@example.com"
    headers = await sign_in(alice, email)
    answer = await alice.post("/api/v1/items", json={"name": "Anchor"}, headers=headers)
    url = f"ws://127.0.0.1:{listener.port}/api/v1/items/{answer.json()['id']}/room"
    async with connect(url, additional_headers=headers) as client:
        assert json.loads(await client.recv())["type"] == "joined"
        await revoke(listener.app, alice, email, headers)
        messages, code = await until_closed(client)
    assert (messages[-1]["code"], code) == ("unauthorized", 1008)
