"""HTTP by hand: a client that costs little, and one that sends whatever it is told."""

import asyncio
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from tests.system.serving import Server


def request(
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    kind: str = "application/json",
) -> bytes:
    """Write a request."""
    given = {"Host": "test", **(headers or {})}
    if body:
        given |= {"Content-Type": kind, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {of}" for name, of in given.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Caller:
    """One connection, kept: a request, its answer, the next one."""

    def __init__(self, server: Server) -> None:
        self._port = port_of(server)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.body = b""

    async def ask(self, sent: bytes) -> int:
        """Return the status; raise ``OSError`` or ``EOFError`` when there was no answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(sent)
            async with asyncio.timeout(60):
                return await self._answer(reader)
        except (OSError, EOFError):
            self.close()
            raise

    async def _answer(self, reader: asyncio.StreamReader) -> int:
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


async def exchange(server: Server, sent: bytes, patience: float = 60) -> bytes:
    """Send bytes on a connection of their own; return all that came until it was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    received = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(patience):
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
    """Return the memory of a process that is really there, in MB."""
    listed = subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)], text=True)
    return int(listed) / 1024


def children(pid: int) -> list[int]:
    """Return the processes that a process has started: the workers of Gunicorn."""
    listed = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True)
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]
