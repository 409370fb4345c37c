"""A scripted peer: a socket server that answers each request as the test says, and counts them."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing, suppress

ONE_GIGABYTE = 1 << 30


class Peer:
    """The peer. ``script``: what it does to the next requests; then it does ``otherwise``.

    A status, with ``Retry-After`` as ``503:2``; or ``hang``, ``drip``, ``reset`` (in the middle of
    the body), ``close`` (the connection, instead of a response), ``hold`` (until ``released``, and
    close then), ``garbage``, ``flood`` (1 GB).
    """

    def __init__(self) -> None:
        self.script: deque[str] = deque()
        self.otherwise = "200"
        self.body = b"{}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.bytes_sent = 0
        self.released = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def will(self, *script: str, otherwise: str = "200") -> None:
        self.script, self.otherwise = deque(script), otherwise

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection is kept."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        self.requests.append(head + await reader.readexactly(int(length or 0)))
        action = self.script.popleft() if self.script else self.otherwise
        status, _, retry_after = action.partition(":")
        if status.isdigit():
            more = f"Retry-After: {retry_after}\r\n" if retry_after else ""
            start = f"HTTP/1.1 {status} X\r\nContent-Length: {len(self.body)}\r\n{more}\r\n"
            writer.write(start.encode() + self.body)
            await writer.drain()
            return True
        await getattr(self, f"_{action}")(reader, writer)
        return False

    async def _hang(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client disconnects

    async def _close(self, *_: object) -> None:
        """Close the connection, as a server does with a kept one."""

    async def _hold(self, *_: object) -> None:
        await self.released.wait()
        self.released.clear()

    async def _garbage(self, _: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example.com ready\r\n\r\n")
        await writer.drain()

    async def _drip(self, _: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.01)

    async def _reset(self, _: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
        await writer.drain()
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _flood(self, _: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ONE_GIGABYTE)
        part = bytes(65_536)
        while self.bytes_sent < ONE_GIGABYTE:
            writer.write(part)
            await writer.drain()
            self.bytes_sent += len(part)


@asynccontextmanager
async def running_peer(script: Iterable[str] = ()) -> AsyncIterator[Peer]:
    peer = Peer()
    peer.will(*script)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    async with server:
        peer.port = server.sockets[0].getsockname()[1]
        yield peer
