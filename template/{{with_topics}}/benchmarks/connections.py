"""Connections that stay open: memory for each, and messages that all of them receive.

Two Gunicorn workers serve ``--connections`` clients. The clients are on the same machine, and take
their share of its CPUs. Nothing is asserted.

- stalled: large messages to a few clients, without and with one more that never reads.
- memory: of all server processes, with and without the connections.
- steady: one message a second to everybody; the time from its publication until a client has it.
- burst: messages one after the other, as fast as they can be published.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import compare

TICK = re.compile(rb'"at":([0-9.]+),"end"')
STEADY, BURST, LARGE = 10, 50, 250  # messages
PADDING = 32_768  # characters of a large message
FEW = 20
PING = re.compile(rb"\x89\x04(.{4})", re.DOTALL)  # what a WebSocket has to answer
AT_ONCE = 50  # connections that are opened at the same time
PATIENCE = 120.0  # seconds

LIMITS = {
    "WEB_CONCURRENCY": "2",
    "RATE_LIMIT": "off",
    "MAX_CONNECTIONS": "10000",
    "MAX_WEBSOCKETS": "9000",
    "WEBSOCKETS_PER_CALLER": "10000",
    "WEBSOCKETS_PER_ROOM": "10000",
    "EVENT_STREAMS_PER_CALLER": "10000",
}


class Client(asyncio.Protocol):
    """Sends a request, and notes how late each message arrives."""

    def __init__(self, request: bytes, delays: list[float]) -> None:
        self._request = request
        self._delays = delays
        self._data = b""
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, end = time.time(), 0
        for ping in PING.finditer(data):
            self.transport.write(b"\x8a\x84" + bytes(4) + ping[1])
        self._data += data
        for found in TICK.finditer(self._data):
            end = found.end()
            self.received += 1
            self._delays.append(now - float(found[1]))
        self._data = self._data[end:][-65536:]


@contextmanager
def serving(variables: dict[str, str], app: str) -> Iterator[compare.Server]:
    port = compare.free_port()
    command = [sys.executable, "-m", "gunicorn", app]
    server = compare.Server(command, variables | LIMITS | {"PORT": str(port)}, port)
    try:
        server.wait("/health/ready")
        yield server
    finally:
        server.stop()


class Clients:
    """Many clients of one server."""

    def __init__(self, server: compare.Server, request: str) -> None:
        self._server = server
        self._host, _, self._port = server.url.removeprefix("http://").partition(":")
        self._request = request.replace("\n", "\r\n").encode()
        self._stalled: list[socket.socket] = []
        self.delays: list[float] = []
        self.all: list[Client] = []

    async def open(self, count: int) -> None:
        loop = asyncio.get_running_loop()

        async def one() -> None:
            _, client = await loop.create_connection(
                lambda: Client(self._request, self.delays), self._host, int(self._port)
            )
            self.all.append(client)

        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(one() for _ in range(min(AT_ONCE, count - start))))
        # A client that has received a message is in the room.
        end = time.monotonic() + PATIENCE
        while not all(client.received for client in self.all):
            assert time.monotonic() < end, f"{len(self.all)} opened, not all receive"
            await self.publish()
            await asyncio.sleep(1)
        await self._settled()

    async def _settled(self) -> None:
        before = -1
        while before != len(self.delays):
            before = len(self.delays)
            await asyncio.sleep(1)
        self.delays.clear()

    def open_stalled(self) -> None:
        """One more, which never reads."""
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((self._host, int(self._port)))
        stalled.sendall(self._request)
        self._stalled.append(stalled)

    async def publish(self, padding: int = 0) -> None:
        body = json.dumps({"padding": "x" * padding}).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._server.url}/bench/ticks", body, head)
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=30).read())

    async def receive(self, messages: int, every: float, padding: int = 0) -> tuple[float, ...]:
        """Publish messages; how late they arrived (median, p99), and how many in a second."""
        self.delays.clear()
        expected = messages * len(self.all)
        started = time.monotonic()
        for n in range(messages):
            await asyncio.sleep(max(0.0, started + n * every - time.monotonic()))
            await self.publish(padding)
        while len(self.delays) < expected:
            assert time.monotonic() < started + messages * every + PATIENCE, len(self.delays)
            await asyncio.sleep(0.005)
        seconds = time.monotonic() - started
        percentiles = statistics.quantiles(self.delays, n=100)
        return percentiles[49] * 1000, percentiles[98] * 1000, expected / seconds


async def _ended_as_slow(server: compare.Server, metric: str) -> float:
    """Seconds until a connection has been ended since its client does not read."""

    def read() -> str:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
            text: str = response.read().decode()
        return text

    started = time.monotonic()
    while f'{metric}{{reason="slow"}} 1.0' not in await asyncio.to_thread(read):
        assert time.monotonic() < started + PATIENCE, "the stalled client is still there"
        await asyncio.sleep(0.5)
    return time.monotonic() - started


async def _measure(server: compare.Server, request: str, ended: str, count: int) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {datetime.now(UTC):%Y-%m-%d}:")
    clients = Clients(server, request)
    await clients.open(FEW)  # what the first ones cost is not theirs
    without = await clients.receive(LARGE, 0.05, PADDING)
    clients.open_stalled()
    await asyncio.sleep(1)
    stalled = await clients.receive(LARGE, 0.05, PADDING)
    ended_after = await _ended_as_slow(server, ended)
    print(f"  {FEW} clients: {without[0]:.0f} ms median, {without[1]:.0f} ms p99;", end=" ")
    print(f"beside a stalled one: {stalled[0]:.0f} ms median, {stalled[1]:.0f} ms p99;", end=" ")
    print(f"which was ended after {ended_after:.0f} s more")
    before = server.memory()
    await clients.open(count)
    memory = (server.memory() - before) / count * 1024
    print(f"  {count} clients: {memory:.0f} KiB each, {before:.0f} MB without them", end="")
    print(f"; load {os.getloadavg()[0]:.1f}")
    median, p99, _ = await clients.receive(STEADY, 1)
    print(f"  steady: {median:.0f} ms median, {p99:.0f} ms p99")
    _, p99, rate = await clients.receive(BURST, 0)
    print(f"  burst: {rate:.0f} messages received per second, {p99:.0f} ms p99", end="")
    print(f"; load {os.getloadavg()[0]:.1f}")


def main(app: str, request: str, ended: str) -> None:
    """Measure ``app``; ``ended``: the metric of its connections' ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=2000)
    count = parser.parse_args().connections
    with compare.environment() as variables, serving(variables, app) as server:
        asyncio.run(_measure(server, request, ended, count))
