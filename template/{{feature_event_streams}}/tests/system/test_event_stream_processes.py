"""Event streams of several Gunicorn workers: killed, replaced, stopped, without Redis."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.system.serving import Serve, Server

APP = """
import os
from collections.abc import AsyncIterator
from typing import Annotated
from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from app import main
from app.platform.http import routing
from app.platform.http.event_streams import EventStream, EventStreamsDep

class Number(BaseModel):
    value: int

async def of_topic(request: Request, streams: EventStreamsDep) -> AsyncIterator[EventStream]:
    async with streams.open(request, "numbers", caller=os.getpid()) as stream:
        yield stream

router = APIRouter()

@router.get("/test/numbers", response_class=EventSourceResponse)
async def numbers(
    stream: Annotated[EventStream, Depends(of_topic)]
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(event="pid", raw_data=str(os.getpid()))
    async for event in stream:
        yield event

@router.post("/test/numbers", status_code=204)
async def publish(number: Number, streams: EventStreamsDep) -> None:
    await streams.publish("numbers", number)

def create_app():
    app = main.create_app()
    app.include_router(router)
    routing.install_index(app)
    return app
"""


class Reader(threading.Thread):
    """Reads a stream as a browser does: reconnects, and says which event it has seen last."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.numbers: list[int] = []
        self.pids: list[int] = []
        self.names: list[str] = []
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        seen = ""
        while not self.stopped.is_set():
            headers = {"Last-Event-ID": seen} if seen else {}
            try:
                with httpx2.stream(
                    "GET", f"{self.server.url}/test/numbers", headers=headers, timeout=20
                ) as response:
                    fields: dict[str, str] = {}
                    for line in response.iter_lines():
                        if self.stopped.is_set():
                            return
                        name, _, value = line.partition(": ")
                        if line:
                            fields[name] = value
                            continue
                        seen = fields.get("id", seen)
                        self._event(fields)
                        fields = {}
            except httpx2.HTTPError:
                self.stopped.wait(0.05)

    def _event(self, fields: dict[str, str]) -> None:
        if "event" in fields:
            self.names.append(fields["event"])
        if fields.get("event") == "pid":
            self.pids.append(int(fields["data"]))
        elif fields.get("event") == "Number":
            self.numbers.append(json.loads(fields["data"])["value"])


@pytest.fixture
def streaming(serve: Serve, tmp_path: Path) -> Callable[..., Server]:
    (tmp_path / "numbers_under_test.py").write_text(APP)

    def start(**changes: str) -> Server:
        return serve("gunicorn", "numbers_under_test:create_app()", **changes)

    return start


@contextmanager
def reading(*servers: Server) -> Iterator[list[Reader]]:
    """A reader of each server, all connected."""
    started = [Reader(server) for server in servers]
    try:
        servers[0].until(lambda: all(reader.pids for reader in started))
        yield started
    finally:
        for reader in started:
            reader.stopped.set()


def publish(server: Server, number: int) -> None:
    """Publish a number; a worker that was killed while it did so may have sent it or not."""
    while True:
        try:
            httpx2.post(f"{server.url}/test/numbers", json={"value": number}).raise_for_status()
        except httpx2.HTTPError:
            continue
        return


def test_no_event_is_lost_or_doubled_when_workers_are_killed(
    streaming: Callable[..., Server], record_property: Callable[[str, object], None]
) -> None:
    limits = {"RATE_LIMIT": "off", "EVENT_STREAMS_PER_CALLER": "100"}
    server = streaming(**limits)
    others = [streaming(**limits, WEB_CONCURRENCY="1") for _ in range(2)]
    sent = range(60)
    with reading(*[server] * 8, *others) as readers:
        for number in sent:
            publish(server, number)
            if number in (20, 40):
                os.kill(readers[0].pids[-1], signal.SIGKILL)
        server.until(lambda: all(sent[-1] in reader.numbers for reader in readers))
        received = [len(reader.numbers) for reader in readers]
        missing = sum(len(set(sent).difference(reader.numbers)) for reader in readers)
        doubled = sum(received) - len(readers) * len(sent) + missing
        record_property("sent, received, doubled, missing", (60, received, doubled, missing))
        for reader in readers:
            assert list(dict.fromkeys(reader.numbers)) == list(sent), reader.numbers
            assert "gap" not in reader.names
        # Published twice at most: when the worker that was killed had just done so.
        assert max(received) <= 62
        assert len({pid for reader in readers for pid in reader.pids}) >= 5


def test_a_stopped_server_ends_its_streams_at_once(streaming: Callable[..., Server]) -> None:
    server = streaming(DRAIN_SECONDS="1")
    with reading(*[server] * 4) as readers:
        publish(server, 1)
        server.until(lambda: all(reader.numbers == [1] for reader in readers))
        for reader in readers:
            reader.stopped.set()
        assert server.stop(10) == 0
    assert "Traceback" not in server.log.read_text()
