"""The room of an item: those who look at it read what is said; others may not enter."""

import json
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.settings import Settings
from tests.items.rooms import credential, new_room, serving


async def test_those_in_the_room_read_what_is_said_and_nobody_else_may_enter(
    module_settings: Settings,
) -> None:
    async with serving(module_settings) as (listener, alice):
        url, headers = await new_room(listener, alice), credential(alice)
        async with (
            connect(url, additional_headers=headers) as one,
            connect(url, additional_headers=headers) as other,
        ):
            await one.send(json.dumps({"type": "say", "text": "Sold."}))
            message = {"type": "joined"}
            while message["type"] != "said":
                message = json.loads(await other.recv())
            assert message["text"] == "Sold."
            assert message["id"]
            assert message["by"]
        missing = f"ws://127.0.0.1:{listener.port}/api/v1/items/{uuid4()}/room"
        with pytest.raises(InvalidStatus) as refusal:
            await connect(missing, additional_headers=headers)
        assert refusal.value.response.status_code == 404
