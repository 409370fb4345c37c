"""Rooms: WebSockets of every process that receive the same messages, in the same order.

A message is a Pydantic model with a field ``type``. A kept room numbers its messages and keeps them
for a while, so that a client that reconnects gets those that it has missed; in other rooms it is
sent a ``gap``. A message that cannot be handled is answered with one of type ``error``, and the
WebSocket stays open.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from time import monotonic
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import prometheus_client
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketState

from app.platform.base.components import Lifespan
from app.platform.base.errors import AppError, TooManyRequests, Unavailable
from app.platform.base.tasks import cancel
from app.platform.data.database import on_commit
from app.platform.data.redis import REDIS_ERRORS
from app.platform.data.room_state import RoomState
from app.platform.data.topics import GAP, Event, Id, Listener, Topics, channel, format_id, parse_id
from app.platform.http.dependency_errors import refusal
from app.platform.http.draining import is_draining, when_draining
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# Seconds until a client reconnects: spread, so that the clients of a process that has ended do not
# all arrive at once.
RECONNECT_AFTER = (1.0, 5.0)
CLOSE_TIMEOUT = 5.0  # seconds until the close frame of a client that does not read is given up
PRESENCE_INTERVAL = 5.0  # seconds between two heartbeats of the members of a room
# Close codes (RFC 6455, section 7.4.1, and IANA's registry) by the reason of the end.
CLOSE_CODES = {
    "handler": 1000,
    "unauthorized": 1008,
    "rate": 1008,
    "size": 1009,
    "shutdown": 1012,
    "slow": 1013,
}
T = TypeVar("T")
Authorize = Callable[[], Awaitable[str]]
Handle = Callable[[str, T], Awaitable[None]]

logger = get_logger(__name__)


class Room(NamedTuple):
    """A room by name. ``kept``: for clients that resume. ``presence``: members are announced."""

    name: str
    kept: bool = False
    presence: bool = False

    @property
    def topic(self) -> str:
        """The topic of its messages, which no event stream has."""
        return f"rooms:{self.name}"

    @property
    def channel(self) -> str:
        """The channel of its messages in Redis."""
        return channel(self.topic, self.kept)


class Message(BaseModel):
    """A message. Subclasses narrow the type: ``type: Literal["said"] = "said"``."""

    type: str


class Ack(Message):
    """From a client of a kept room: it has received all messages up to this one.

    Such a room takes ``Annotated[Say | Ack, Field(discriminator="type")]``.
    """

    type: Literal["ack"] = "ack"
    id: str


class _RefusedMessage(Exception):
    """A message after which the WebSocket ends, for a reason among ``CLOSE_CODES``."""


class Rooms:
    """The rooms of this process."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self.settings = settings
        self.topics = Topics(app.state.redis, settings)
        self.state = RoomState(app.state.redis, settings.topic_retention)
        self.listeners: set[Listener] = set()
        self._of_caller: Counter[str] = Counter()
        self._of_room: Counter[Room] = Counter()
        self._present: dict[Room, Counter[str]] = {}
        registry = app.state.metrics.registry
        self._ended = prometheus_client.Counter(
            "websockets_ended",
            "WebSockets in rooms that have ended.",
            ["reason"],
            registry=registry,
        )
        self._messages = prometheus_client.Counter(
            "websocket_messages",
            "Messages on WebSockets in rooms.",
            ["direction"],
            registry=registry,
        )
        self.sent, self.received = self._messages.labels("sent"), self._messages.labels("received")

    async def send(self, room: Room, message: Message) -> None:
        """Send a message to everybody in a room; raises ``Unavailable`` if Redis is."""
        text = message.model_dump_json()
        try:
            if room.kept:
                await self.topics.publish(room.topic, message.type, text)
            else:
                await self.topics.pass_on(room.topic, message.type, text)
        except REDIS_ERRORS as error:
            raise Unavailable("Messages cannot be sent now.") from error

    def send_on_commit(self, session: AsyncSession, room: Room, message: Message) -> None:
        """Send a message once the transaction of ``session`` has committed.

        It is lost if Redis is unavailable then; the log says so.
        """

        async def send() -> None:
            try:
                await self.send(room, message)
            except Unavailable:
                logger.error("message lost", room=room.name)

        on_commit(session, send)

    async def members(self, room: Room) -> list[str]:
        """The callers in a room with ``presence``; those that left may be among them for 20 s."""
        return await self.state.members(room.channel)

    async def serve(
        self,
        websocket: WebSocket,
        room: Room,
        authorize: Authorize,
        messages: TypeAdapter[T],
        handle: Handle[T],
    ) -> None:
        """Keep a WebSocket in a room until it ends, and ``handle`` its messages, one at a time.

        ``messages`` checks them; ``handle`` gets the caller's id and a message. The WebSocket stays
        open if it raises an ``AppError``, which is sent to the client, and so is a conflict that
        Postgres reports, such as a unique violation.

        ``authorize`` returns the caller's id or raises an ``AppError``. It is called before the
        WebSocket joins, and every ``websocket_recheck`` seconds: an error below 500 ends it.
        """
        caller = await authorize()
        with self._admitted(room, caller):
            after = await self._resumed_after(websocket, room, caller)
            async with self.topics.listen(room.topic, after, kept=room.kept) as listener:
                if websocket.application_state is WebSocketState.CONNECTING:
                    await websocket.accept()
                member = _Member(self, websocket, listener, room, caller)
                self.listeners.add(listener)
                try:
                    if room.presence:
                        await self.state.add_members(room.channel, [caller])
                        with suppress(*REDIS_ERRORS):
                            member.send({"type": "members", "members": await self.members(room)})
                    await _until_ended(
                        listener,
                        member.write(),
                        member.read(messages, handle),
                        self._recheck(member, authorize),
                    )
                finally:
                    self.listeners.discard(listener)
                    self._ended.labels(listener.ended or "error").inc()
            await member.close()

    async def _resumed_after(self, websocket: WebSocket, room: Room, caller: str) -> Id | None:
        """The last message that the client has seen: it says so, or has acknowledged it."""
        if not room.kept:
            return None
        if given := parse_id(websocket.query_params.get("after", "")):
            return given
        try:
            return await self.state.acknowledged(room.topic, client_key(websocket, caller))
        except REDIS_ERRORS as error:
            raise Unavailable("Messages are not available.") from error

    @contextmanager
    def _admitted(self, room: Room, caller: str) -> Iterator[None]:
        """Count a WebSocket within the limits of its caller and its room."""
        settings = self.settings
        if is_draining(self._app):
            raise Unavailable("The server is shutting down.")
        if self._of_caller[caller] >= settings.websockets_per_caller:
            raise TooManyRequests("You have too many WebSockets open; close one first.")
        if self._of_room[room] >= settings.websockets_per_room:
            raise Unavailable("This room is full; try again later.")
        present = self._present.setdefault(room, Counter())
        counts: tuple[tuple[Counter[Any], Any], ...] = (
            (self._of_caller, caller),
            (self._of_room, room),
            (present, caller),
        )
        for counter, key in counts:
            counter[key] += 1
        try:
            yield
        finally:
            for counter, key in counts:
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
            if not present:
                self._present.pop(room, None)

    async def _recheck(self, member: "_Member", authorize: Authorize) -> None:
        while True:
            await asyncio.sleep(self.settings.websocket_recheck)
            try:
                await authorize()
            except AppError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    member.last_message = _error(error.code, error.detail)
                    member.listener.end("unauthorized")
                    return

    @asynccontextmanager
    async def showing_presence(self) -> AsyncIterator[None]:
        """Within the block, keep the members of this process in their rooms."""

        async def show() -> None:
            while True:
                await asyncio.sleep(PRESENCE_INTERVAL)
                for room, present in list(self._present.items()):
                    if room.presence:
                        await self.state.add_members(room.channel, present)

        task = asyncio.create_task(show())
        try:
            yield
        finally:
            await cancel(task)

    def end(self) -> None:
        """End all WebSockets, since the process shuts down."""
        for listener in self.listeners:
            listener.end("shutdown")


class _Member:
    """One WebSocket in a room."""

    def __init__(
        self, rooms: Rooms, websocket: WebSocket, listener: Listener, room: Room, caller: str
    ) -> None:
        self.listener = listener
        self.last_message: dict[str, Any] | None = None
        self._rooms = rooms
        self._websocket = websocket
        self._room = room
        self._caller = caller
        self._client = client_key(websocket, caller)
        self._allowed_at = 0.0  # when the sender would have no message left of its rate

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to this WebSocket only."""
        self.listener.put(Event(None, message["type"], json.dumps(message)))

    async def write(self) -> None:
        """Send the events, as fast as the client reads them."""
        try:
            async for event in self.listener.events():
                await self._websocket.send_text(_text(event))
                self._rooms.sent.inc()
        except (WebSocketDisconnect, RuntimeError):  # the latter after the server has closed it
            self.listener.end("client")

    async def read(self, messages: TypeAdapter[T], handle: Handle[T]) -> None:
        while True:
            try:
                text = await self._receive()
            except WebSocketDisconnect:
                self.listener.end("client")
                return
            except _RefusedMessage as refused:
                self.listener.end(str(refused))
                return
            try:
                message = messages.validate_json(text)
            except ValidationError as invalid:
                errors = invalid.errors(
                    include_url=False, include_context=False, include_input=False
                )
                self.send(_error("invalid", "The message is invalid; see `errors`.", errors=errors))
                continue
            try:
                if isinstance(message, Ack):
                    await self._rooms.state.acknowledge(self._room.topic, self._client, message.id)
                else:
                    await handle(self._caller, message)
            except AppError as error:
                self.send(_error(error.code, error.detail))
            except DBAPIError as error:
                if (conflict := refusal(error)) is None:
                    raise
                self.send(_error(conflict.code, conflict.detail))

    async def close(self) -> None:
        """Close the WebSocket with the code for the reason of its end, unless the client has."""
        reason = self.listener.ended or "handler"
        if reason == "client":
            return
        if reason == "shutdown":
            seconds = round(random.uniform(*RECONNECT_AFTER), 1)  # noqa: S311 (not a secret)
            self.last_message = {"type": "reconnect", "after": seconds}
        with suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self.last_message:
                    await self._websocket.send_json(self.last_message)
                await self._websocket.close(CLOSE_CODES[reason], reason)

    async def _receive(self) -> str:
        """The next message, within the limits of rate and size."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        self._rooms.received.inc()
        text: str = message.get("text") or ""
        settings, now = self._rooms.settings, monotonic()
        rate = settings.websocket_rate
        self._allowed_at = max(now, self._allowed_at) + rate.window / rate.limit
        if self._allowed_at > now + rate.window:
            raise _RefusedMessage("rate")
        if len(text.encode()) > settings.websocket_max_message:
            raise _RefusedMessage("size")
        return text


async def _until_ended(listener: Listener, *work: Coroutine[Any, Any, None]) -> None:
    """Run all ``work`` until the listener or one of it ends; raise what it has raised."""
    tasks: set[asyncio.Task[Any]] = {asyncio.create_task(each) for each in work}
    tasks.add(asyncio.create_task(listener.done.wait()))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(*tasks)
    for task in done:
        if error := task.exception():
            raise error


def _text(event: Event) -> str:
    """What a WebSocket is sent for an event: its message, with the id if it is kept."""
    if event is GAP:
        return '{"type":"gap"}'
    return f'{{"id":"{format_id(event.id)}",{event.data[1:]}' if event.id else event.data


def _error(code: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "code": code, "detail": detail, **more}


def client_key(connection: HTTPConnection, caller: str) -> str:
    """The key of a client, of which a caller may have several, each with its acknowledgements."""
    return f"{connection.query_params.get('client', '')[:64]}\n{caller}"


async def _rooms(connection: HTTPConnection) -> Rooms:
    rooms: Rooms = connection.app.state.rooms
    return rooms


RoomsDep = Annotated[Rooms, Depends(_rooms)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        rooms = app.state.rooms = Rooms(app, settings)
        async with (
            when_draining(app, rooms.end),
            rooms.showing_presence(),
            rooms.topics.receiving(),
        ):
            yield

    return lifespan
