"""A cheap HTTP client on asyncio streams, and raw bytes for invalid requests."""

import asyncio
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from tests.system.serving import Server


def request(
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    content_type: str = "application/json",
) -> bytes:
    """The bytes of a request."""
    fields = {"Host": "test", **(headers or {})}
    if body:
        fields |= {"Content-Type": content_type, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class KeepAliveClient:
    """A client with one connection; ``body`` is that of the last response."""

    def __init__(self, server: Server) -> None:
        self._port = port_of(server)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.body = b""

    async def send(self, data: bytes) -> int:
        """Send a request and return the status; without a response, ``OSError`` or ``EOFError``."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(data)
            async with asyncio.timeout(60):
                return await self._read_response(reader)
        except (OSError, EOFError):
            self.close()
            raise

    async def _read_response(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        self.body = await reader.readexactly(int(length or 0)) if status != 304 else b""
        if b"connection: close" in head:
            self.close()
        return status

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def exchange(server: Server, sent: bytes, seconds: float = 60) -> bytes:
    """Send bytes on a new connection; return what arrives until it closes or the time is up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    received = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            with suppress(OSError):
                writer.write(sent)
                await writer.drain()
            while piece := await reader.read(65_536):
                received += piece
    writer.close()
    return received


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def resident(pid: int) -> float:
    """The resident memory of a process, in MB."""
    listed = subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)], text=True)
    return int(listed) / 1024


def gunicorn_workers(server: Server, count: int) -> list[int]:
    """The workers, once all were started: the first one serves before the last one exists."""
    until = time.monotonic() + 30
    while len(workers := children(server.process.pid)) < count and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers) == count, workers
    return workers


def children(pid: int) -> list[int]:
    """The child processes of a process, such as Gunicorn's workers."""
    listed = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True)
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]
