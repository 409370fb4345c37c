"""A way to a server that a test can cut."""

import asyncio

from sqlalchemy.engine import make_url

# How a request to cancel a statement begins: it is no session, and takes none of the connections.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
CANCEL = (80877102).to_bytes(4, "big")
# A session that replaces one that was given up may overlap it for as long as its end takes.
OVERLAP = 0.1  # seconds


class Link:
    """A way to a server that can be cut: what is open breaks, and nobody gets through.

    What clients send with ``loses`` in it does not arrive.
    """

    loses = b""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.StreamWriter] = set()
        self.most = 0  # sessions at once, so far

    @property
    def url(self) -> str:
        here = self._url.set(host="127.0.0.1", port=self._port)
        return here.render_as_string(hide_password=False)

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._url.host, self._url.port)
        self._open |= {writer, back}
        first = await reader.read(65536)  # clients are those who begin
        if first[4:8] != CANCEL:
            self._sessions.add(writer)
            asyncio.get_running_loop().call_later(OVERLAP, self._count)
        back.write(first)
        await asyncio.gather(self._copy(reader, back, True), self._copy(there, writer))
        self._sessions.discard(writer)
        self._open -= {writer, back}

    def _count(self) -> None:
        self.most = max(self.most, len(self._sessions))

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                if not (from_client and self.loses and self.loses in data):
                    writer.write(data)
        except ConnectionError:
            pass
        writer.transport.abort()
