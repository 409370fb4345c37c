"""What WebSockets in a kept room cost.

uv run python benchmarks/rooms.py [--connections 2000]
"""

import time
from typing import Literal

import connections
from fastapi import APIRouter, FastAPI, WebSocket
from pydantic import BaseModel, TypeAdapter

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455
REQUEST = (
    "GET /bench/room HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\n"
    f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {KEY}\n\n"
)


class Publication(BaseModel):
    """What is published."""

    padding: str


def create_app() -> FastAPI:
    """The service, with a room for everybody."""
    from app import main
    from app.platform.http import routing
    from app.platform.http.rooms import Message, Room, RoomsDep

    class Tick(Message):
        type: Literal["tick"] = "tick"
        at: float
        end: str

    room = Room("bench", kept=True)
    router = APIRouter(prefix="/bench")

    @router.websocket("/room")
    async def join(websocket: WebSocket, rooms: RoomsDep) -> None:
        async def authorize() -> str:
            return "bench"

        async def ignore(by: str, message: Tick) -> None:
            """Clients say nothing."""

        await rooms.serve(websocket, room, authorize, TypeAdapter(Tick), ignore)

    @router.post("/ticks", status_code=204)
    async def publish(publication: Publication, rooms: RoomsDep) -> None:
        await rooms.send(room, Tick(at=time.time(), end=publication.padding))

    app = main.create_app()
    app.include_router(router)
    routing.install_index(app)
    return app


if __name__ == "__main__":
    connections.main("rooms:create_app()", REQUEST, "websockets_ended_total")
