"""A client of event streams for tests."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI


class Stream:
    """A response of the app in this process, whose events can be read one by one."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False
        self._parts: asyncio.Queue[bytes] = asyncio.Queue()
        self._text = ""

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self._parts.put_nowait(message.get("body", b""))

    def leave(self) -> None:
        """Close the connection, as a client that goes away."""
        self._left.set()

    async def block(self) -> dict[str, str]:
        """The fields of the next event, or of a comment under ``""``."""
        async with asyncio.timeout(10):
            while "\n\n" not in self._text:
                self._text += (await self._parts.get()).decode()
        block, _, self._text = self._text.partition("\n\n")
        fields = (line.partition(": ") for line in block.splitlines())
        return {name: value for name, _, value in fields}

    async def event(self) -> dict[str, str]:
        """The fields of the next event with data."""
        while "data" not in (fields := await self.block()):
            pass
        return fields


@asynccontextmanager
async def open_stream(
    app: FastAPI, path: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Stream]:
    """Request ``path`` of the app in this process; the response may never end."""
    given = {"host": "test", "accept": "text/event-stream", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "root_path": "",
        "query_string": path.partition("?")[2].encode(),
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        "state": {},
    }
    stream = Stream()

    async def run() -> None:
        await app(scope, stream.receive, stream.send)
        stream.ended.set()

    task = asyncio.create_task(run())
    try:
        async with asyncio.timeout(10):
            while not stream.status:
                await asyncio.wait({task}, timeout=0.01)
        yield stream
    finally:
        stream.leave()
        with suppress(TimeoutError):
            await asyncio.wait_for(task, 10)
