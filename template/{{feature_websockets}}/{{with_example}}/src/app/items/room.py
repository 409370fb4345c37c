"""A WebSocket room for each item, with presence and messages."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, WebSocket
from pydantic import Field, TypeAdapter

from app.items import service
from app.platform.auth.websocket_caller import WebSocketCallerDep
from app.platform.data.database import ReadSessionDep
from app.platform.http.rooms import Ack, Message, Room, RoomsDep

router = APIRouter(prefix="/items/{item_id:uuid}", tags=["items"])


class Say(Message):
    """From a client."""

    type: Literal["say"]
    text: str = Field(min_length=1, max_length=1000)


class Said(Message):
    """To everybody in the room."""

    type: Literal["said"] = "said"
    text: str
    by: str


MESSAGES: TypeAdapter[Say | Ack] = TypeAdapter(Annotated[Say | Ack, Field(discriminator="type")])


@router.websocket("/room")
async def join_room(
    websocket: WebSocket,
    item_id: UUID,
    caller: WebSocketCallerDep,
    session: ReadSessionDep,
    rooms: RoomsDep,
) -> None:
    """Talk about an item; messages are kept for a while, for clients that reconnect."""
    room = Room(f"items:{item_id}", kept=True, presence=True)

    async def authorize() -> str:
        user = await caller.user()
        await service.get_item(session, user.id, item_id)
        return user.id

    async def say(by: str, message: Say | Ack) -> None:
        if isinstance(message, Say):
            await rooms.send(room, Said(text=message.text, by=by))

    await rooms.serve(websocket, room, authorize, MESSAGES, say)
