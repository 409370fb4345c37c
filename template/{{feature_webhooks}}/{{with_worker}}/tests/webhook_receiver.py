"""A subscriber to webhooks, with a script of what it does."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK = b"x" * 65_536
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\n"
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """``action``: a status, ``hang``, ``trickle``, ``redirect``, ``huge`` or ``garbage``."""

    port: int = 0
    action: str = "200"
    retry_after: str = ""
    received: list[Received] = field(default_factory=list)
    sent: int = 0  # bytes of a huge response
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(headers, body))
        self.arrived.set()
        if self.action == "hang":
            await reader.read()  # until the other side ends the connection
        elif self.action == "trickle":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.is_closing():  # a header now and then, and never the end of the head
                writer.write(b"X-More: 1\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        elif self.action == "redirect":
            writer.write(REDIRECT + b"Content-Length: 0\r\n\r\n")
        elif self.action == "huge":
            writer.write(HUGE)
            while self.sent < 1_000_000_000:
                writer.write(CHUNK)
                await writer.drain()
                self.sent += len(CHUNK)
        elif self.action == "garbage":
            writer.write(b"no HTTP\r\n\r\n")
        else:
            extra = f"Retry-After: {self.retry_after}\r\n" if self.retry_after else ""
            head = f"HTTP/1.1 {self.action} X\r\n{extra}Content-Length: 0\r\n\r\n"
            writer.write(head.encode())
        await writer.drain()


@asynccontextmanager
async def running_receiver(
    tls: ssl.SSLContext | None = None, action: str = "200"
) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of this machine."""
    receiver = Receiver(action=action)
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
