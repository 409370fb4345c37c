"""Rooms: messages reach everybody in order; limits, authorization and the end of WebSockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, WebSocket
from pydantic import Field, TypeAdapter
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.platform.base.errors import Forbidden
from app.platform.data import room_state, topics
from app.platform.http import rooms as rooms_module
from app.platform.http.rooms import Ack, Message, Room, Rooms, RoomsDep
from app.platform.settings.rates import Rate
from app.settings import Settings
from tests.conftest import running_platform
from tests.platform.server.test_connection_limits import Listener, served


class Say(Message):
    type: Literal["say"] = "say"
    text: str = Field(max_length=100_000)


MESSAGES: TypeAdapter[Say | Ack] = TypeAdapter(Annotated[Say | Ack, Field(discriminator="type")])

router = APIRouter()
banned: set[str] = set()


@router.websocket("/rooms/{name}")
async def join(
    websocket: WebSocket, name: str, rooms: RoomsDep, who: str = "alice", kept: bool = False
) -> None:
    room = Room(name, kept=kept, presence=name.startswith("lobby"))

    async def authorize() -> str:
        if who in banned:
            raise Forbidden("Not you.")
        return who

    async def say(by: str, message: Say | Ack) -> None:
        assert isinstance(message, Say)
        if message.text == "forbidden":
            raise Forbidden("Not that.")
        if message.text == "conflict":
            async with websocket.app.state.db.transaction() as session:
                await session.execute(text("DO 'BEGIN RAISE unique_violation; END'"))
        if message.text == "bug":
            raise RuntimeError("hunter2")
        await rooms.send(room, message)

    await rooms.serve(websocket, room, authorize, MESSAGES, say)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    banned.clear()
    monkeypatch.setattr(topics, "MAX_BACKOFF", 0.05)
    monkeypatch.setattr(rooms_module, "CLOSE_TIMEOUT", 0.2)


@pytest.fixture(scope="module")
async def processes(settings: Settings) -> AsyncIterator[tuple[Listener, Listener]]:
    async with AsyncExitStack() as stack:
        listeners = []
        for _ in range(2):
            app = await stack.enter_async_context(running_platform(settings))
            app.include_router(router)
            listeners.append(await stack.enter_async_context(served(app)))
        yield listeners[0], listeners[1]


@pytest.fixture
async def two(
    request: pytest.FixtureRequest, processes: tuple[Listener, Listener]
) -> tuple[Listener, Listener]:
    """Two processes of the service, with the settings that a test changes."""
    changes = {"websocket_rate": Rate(1000, 1)} | getattr(request, "param", {})
    for listener in processes:
        await until(lambda listener=listener: not rooms_of(listener).listeners)
        listener.config.ws_ping_interval = listener.config.ws_ping_timeout = 30.0
        rooms = rooms_of(listener)
        rooms.settings = listener.app.state.settings.model_copy(update=changes)
        rooms.topics._settings = rooms.settings
    await processes[0].app.state.redis.flushdb()
    return processes


def rooms_of(listener: Listener) -> Rooms:
    rooms: Rooms = listener.app.state.rooms
    return rooms


def url(listener: Listener, path: str) -> str:
    return f"ws://127.0.0.1:{listener.port}/rooms/{path}"


async def say(client: ClientConnection, *texts: str) -> None:
    for each in texts:
        await client.send(json.dumps({"type": "say", "text": each}))


async def take(client: ClientConnection, number: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [json.loads(await client.recv()) for _ in range(number)]


async def texts(client: ClientConnection, number: int) -> list[str]:
    return [message["text"] for message in await take(client, number)]


async def close_code(client: ClientConnection) -> int | None:
    """The code with which the server closes, once everything sent before it is read."""
    async with asyncio.timeout(10):
        with suppress(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (of the server)
            await asyncio.sleep(0.01)


def ended(listener: Listener, reason: str) -> float | None:
    registry = listener.app.state.metrics.registry
    value: float | None = registry.get_sample_value("websockets_ended_total", {"reason": reason})
    return value


async def test_everybody_in_a_room_receives_each_message_in_the_same_order(
    two: tuple[Listener, Listener],
) -> None:
    one, other = two
    async with (
        connect(url(one, "a")) as first,
        connect(url(other, "a")) as second,
        connect(url(other, "b")) as elsewhere,
    ):
        await asyncio.gather(
            say(first, *map(str, range(50))), say(second, *map(str, range(50, 100)))
        )
        received = await texts(first, 100)
        assert received == await texts(second, 100)
        assert [each for each in received if int(each) < 50] == list(map(str, range(50)))
        await say(elsewhere, "here")
        assert await texts(elsewhere, 1) == ["here"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{", "invalid"),
        ('{"type":"unknown"}', "invalid"),
        ('{"type":"say"}', "invalid"),
        ('{"type":"say","text":"forbidden"}', "forbidden"),
        ('{"type":"say","text":"conflict"}', "conflict"),
    ],
)
async def test_a_message_that_cannot_be_handled_is_answered_and_the_websocket_stays(
    two: tuple[Listener, Listener], sent: str, code: str
) -> None:
    async with connect(url(two[0], "a")) as client:
        await client.send(sent)
        (answer,) = await take(client)
        assert (answer["type"], answer["code"]) == ("error", code)
        await say(client, "still here")
        assert await texts(client, 1) == ["still here"]


async def test_a_bug_in_the_handler_closes_one_websocket(
    two: tuple[Listener, Listener], capfd: pytest.CaptureFixture[str]
) -> None:
    async with connect(url(two[0], "a")) as failing, connect(url(two[0], "a")) as client:
        await say(failing, "bug")
        assert await close_code(failing) == 1011
        await say(client, "still here")
        assert await texts(client, 1) == ["still here"]
    assert "hunter2" in capfd.readouterr().out
    assert ended(two[0], "error")


async def test_a_client_resumes_a_kept_room_in_another_process(
    two: tuple[Listener, Listener],
) -> None:
    one, other = two
    async with connect(url(one, "a?kept=true")) as client:
        await say(client, "1", "2")
        first, second = await take(client, 2)
        assert first["id"] != second["id"]
    await rooms_of(one).send(Room("a", kept=True), Say(text="3"))
    async with connect(url(other, f"a?kept=true&after={first['id']}")) as client:
        await say(client, "4")
        assert await texts(client, 3) == ["2", "3", "4"]
    async with connect(url(other, "a?kept=true")) as client:
        await say(client, "5")
        assert await texts(client, 1) == ["5"]


async def test_a_client_resumes_after_what_it_has_acknowledged(
    two: tuple[Listener, Listener],
) -> None:
    one, other = two
    path = "a?kept=true&client=phone"
    async with connect(url(one, path)) as client:
        await say(client, "1", "2", "3")
        sent = await take(client, 3)
        for number in (1, 0):  # an older one does not count
            await client.send(json.dumps({"type": "ack", "id": sent[number]["id"]}))
        await client.send(json.dumps({"type": "ack", "id": "of no message"}))
        await say(client, "4")
        await take(client)
    async with connect(url(other, path)) as client:
        assert await texts(client, 2) == ["3", "4"]
    async with connect(url(other, f"{path}&who=bob")) as client:
        await say(client, "5")
        assert await texts(client, 1) == ["5"]


async def test_an_acknowledgement_expires_whoever_else_acknowledges(
    two: tuple[Listener, Listener],
) -> None:
    state, redis = rooms_of(two[0]).state, two[0].app.state.redis
    await state.acknowledge("a", "phone", "1-0")
    (key,) = await redis.keys("*ack*")
    await redis.expire(key, 60)
    await state.acknowledge("a", "tablet", "1-0")
    assert await redis.ttl(key) <= 60


@pytest.mark.parametrize("kept", [False, True])
async def test_websockets_survive_an_outage_of_redis(
    two: tuple[Listener, Listener], kept: bool
) -> None:
    redis = two[0].app.state.redis
    room = Room("a", kept=kept)
    async with connect(url(two[1], f"a?kept={kept}")) as client:
        await say(client, "1")
        assert await texts(client, 1) == ["1"]
        await redis.client_kill_filter(_type="pubsub")
        await rooms_of(two[0]).send(room, Say(text="2"))
        (message,) = await take(client)
        if kept:
            assert message["text"] == "2"
        else:
            assert message == {"type": "gap"}
        await say(client, "3")
        assert await texts(client, 1) == ["3"]


async def test_a_message_that_redis_does_not_take_is_answered(
    two: tuple[Listener, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise RedisConnectionError

    async with connect(url(two[0], "a")) as client:
        with monkeypatch.context() as patch:
            patch.setattr(rooms_of(two[0]).topics, "pass_on", refuse)
            await say(client, "lost")
            assert (await take(client))[0]["code"] == "unavailable"
        await say(client, "found")
        assert await texts(client, 1) == ["found"]


@pytest.mark.parametrize("two", [{"websockets_per_caller": 2}], indirect=True)
async def test_a_caller_has_a_limited_number_of_websockets(two: tuple[Listener, Listener]) -> None:
    one, _ = two
    async with connect(url(one, "a")), connect(url(one, "b")) as second:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url(one, "c"))
        assert refusal.value.response.status_code == 429
        await second.close()
        await until(lambda: len(rooms_of(one).listeners) == 1)
        async with connect(url(one, "c")):
            pass


@pytest.mark.parametrize("two", [{"websockets_per_room": 1}], indirect=True)
async def test_a_room_takes_a_limited_number_of_websockets(two: tuple[Listener, Listener]) -> None:
    one, _ = two
    async with connect(url(one, "a")), connect(url(one, "b")):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url(one, "a?who=bob"))
        assert refusal.value.response.status_code == 503


@pytest.mark.parametrize("two", [{"websocket_rate": Rate(3, 60)}], indirect=True)
async def test_a_websocket_that_sends_too_much_is_closed(two: tuple[Listener, Listener]) -> None:
    async with connect(url(two[0], "a")) as client:
        await say(client, "1", "2", "3")
        assert await texts(client, 3) == ["1", "2", "3"]
        await say(client, "4")
        assert await close_code(client) == 1008
    assert ended(two[0], "rate")


@pytest.mark.parametrize("two", [{"websocket_max_message": 50}], indirect=True)
async def test_a_message_that_is_too_large_closes_the_websocket(
    two: tuple[Listener, Listener],
) -> None:
    async with connect(url(two[0], "a")) as client:
        await say(client, "x" * 50)
        assert await close_code(client) == 1009


@pytest.mark.parametrize("two", [{"websocket_recheck": 0.05}], indirect=True)
async def test_a_caller_who_is_no_longer_authorized_is_told_and_leaves(
    two: tuple[Listener, Listener],
) -> None:
    async with connect(url(two[0], "a")) as client, connect(url(two[0], "a?who=bob")) as other:
        banned.add("alice")
        assert (await take(client))[0]["code"] == "forbidden"
        assert await close_code(client) == 1008
        await say(other, "still here")
        assert await texts(other, 1) == ["still here"]


async def test_whoever_may_not_join_is_refused_before_the_handshake(
    two: tuple[Listener, Listener],
) -> None:
    banned.add("alice")
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url(two[0], "a"))
    assert refusal.value.response.status_code == 403


@pytest.mark.parametrize("two", [{"topic_buffer": 5}], indirect=True)
async def test_a_client_that_does_not_read_is_closed_and_costs_the_others_nothing(
    two: tuple[Listener, Listener],
) -> None:
    one, other = two
    large = "x" * 60_000
    async with connect(url(one, "a")) as reader, connect(url(other, "a"), compression=None) as slow:
        slow.transport.pause_reading()
        number = 0
        while ended(other, "slow") is None:
            assert number < 1000
            await rooms_of(one).send(Room("a"), Say(text=large))
            number += 1
            assert await texts(reader, 1) == [large]
        slow.transport.resume_reading()
        assert await close_code(slow) == 1013
    assert number >= 5
    await until(lambda: not rooms_of(other).listeners)


async def test_the_websockets_of_a_process_that_drains_go_elsewhere(
    two: tuple[Listener, Listener], settings: Settings
) -> None:
    other, _ = two
    async with (
        running_platform(settings) as app,
        served(app) as one,
        connect(url(other, "a")) as staying,
    ):
        app.include_router(router)
        leaving = await connect(url(one, "a"))
        app.state.draining = True
        (advice,) = await take(leaving)
        assert advice["type"] == "reconnect"
        assert 1 <= advice["after"] <= 5
        assert await close_code(leaving) == 1012
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url(one, "a"))
        assert refusal.value.response.status_code == 503
        await say(staying, "still here")
        assert await texts(staying, 1) == ["still here"]


async def test_a_client_that_answers_no_ping_leaves_its_room(
    two: tuple[Listener, Listener],
) -> None:
    one, _ = two
    one.config.ws_ping_interval = one.config.ws_ping_timeout = 0.1
    async with connect(url(one, "a")) as client:
        await until(lambda: rooms_of(one).listeners)
        client.transport.pause_reading()  # nor does it see the pings
        await until(lambda: not rooms_of(one).listeners)
        client.transport.abort()


async def test_members_of_a_room_see_who_comes_and_goes(
    two: tuple[Listener, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_state, "PRESENCE_TTL", 0.3)
    lobby = Room("lobby", presence=True)
    one, other = two
    async with connect(url(one, "lobby")) as alice:
        assert await take(alice, 2) == [
            {"type": "joined", "member": "alice"},
            {"type": "members", "members": ["alice"]},
        ]
        async with connect(url(other, "lobby?who=bob")) as bob:
            assert await take(alice) == [{"type": "joined", "member": "bob"}]
            (_, members) = await take(bob, 2)
            assert sorted(members["members"]) == ["alice", "bob"]
        await asyncio.sleep(0.3)  # the time to live, which Redis measures
        await rooms_of(one).state.add_members(lobby.channel, ["alice"])
        assert await take(alice) == [{"type": "left", "member": "bob"}]
        assert await rooms_of(other).members(lobby) == ["alice"]


async def test_presence_is_one_command_for_a_room_however_many_websockets_it_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms_module, "PRESENCE_INTERVAL", 0.01)
    large, small = Room("lobby", presence=True), Room("lobby-2", presence=True)
    callers = [f"caller-{number}" for number in range(10)]
    paths = [f"{large.name}?who={caller}" for caller in callers] + [small.name]
    shown: dict[str, list[list[str]]] = {large.channel: [], small.channel: []}

    async def count(_: str, __: int, ___: str, channel: str, ____: int, *members: str) -> None:
        shown[channel].append(sorted(members))

    async with running_platform(settings) as app, served(app) as one, AsyncExitStack() as clients:
        app.include_router(router)
        for path in paths:
            await clients.enter_async_context(connect(url(one, path)))
        await until(lambda: len(rooms_of(one).listeners) == len(paths))
        monkeypatch.setattr(app.state.redis, "eval", count)
        await until(lambda: len(shown[small.channel]) >= 5)
        assert abs(len(shown[large.channel]) - len(shown[small.channel])) <= 1
        assert all(members == callers for members in shown[large.channel])


async def test_a_message_of_a_transaction_is_sent_if_it_commits(
    two: tuple[Listener, Listener],
) -> None:
    one, other = two
    async with connect(url(other, "a")) as client:
        with suppress(ZeroDivisionError):
            async with one.app.state.db.transaction() as session:
                rooms_of(one).send_on_commit(session, Room("a"), Say(text="rolled back"))
                raise ZeroDivisionError
        async with one.app.state.db.transaction() as session:
            rooms_of(one).send_on_commit(session, Room("a"), Say(text="committed"))
        assert await texts(client, 1) == ["committed"]
