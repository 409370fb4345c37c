"""A TCP proxy to a server, whose connections a test can break."""

import asyncio

from sqlalchemy.engine import make_url

# Code of a CancelRequest, which opens no session and so does not count as a connection.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
CANCEL_REQUEST = (80877102).to_bytes(4, "big")
# A session may overlap for this long with the cancelled one that it replaces.
OVERLAP = 0.1  # seconds


class Proxy:
    """A proxy that can break all connections and refuse new ones.

    Data from clients that contains ``drop`` is discarded.
    """

    drop = b""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.StreamWriter] = set()
        self.max_sessions = 0  # concurrent sessions seen so far

    @property
    def url(self) -> str:
        proxied = self._url.set(host="127.0.0.1", port=self._port)
        return proxied.render_as_string(hide_password=False)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._url.host, self._url.port)
        self._open |= {writer, server_writer}
        first = await reader.read(65536)  # in both protocols, the client speaks first
        if first[4:8] != CANCEL_REQUEST:
            self._sessions.add(writer)
            asyncio.get_running_loop().call_later(OVERLAP, self._count)
        if not server_writer.is_closing():  # by `stop`; uvloop raises RuntimeError for a write
            server_writer.write(first)
        await asyncio.gather(
            self._copy(reader, server_writer, True), self._copy(server_reader, writer)
        )
        self._sessions.discard(writer)
        self._open -= {writer, server_writer}

    def _count(self) -> None:
        self.max_sessions = max(self.max_sessions, len(self._sessions))

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool = False
    ) -> None:
        try:
            while (data := await reader.read(65536)) and not writer.is_closing():
                if not (from_client and self.drop and self.drop in data):
                    writer.write(data)
        except ConnectionError:
            pass
        writer.transport.abort()
