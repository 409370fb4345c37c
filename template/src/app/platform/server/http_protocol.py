"""How a request is read off the wire: what Uvicorn leaves open, so that no client gets to use it.

llhttp, which reads it, is strict about where a request ends. It sets no bound to what comes before
and after the body; trailers would turn up among the headers of a request that was believed already;
and a client that offers another protocol (``Upgrade: h2c``, as Java's does) would lose its body.
"""

from collections import deque
from uuid import uuid4

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.platform.base import context
from app.platform.http.problems import problem

# Bytes of a head, of trailers or of a chunk's extension: what Uvicorn's other parser allows, and
# more than load balancers pass on.
MAX_HEAD = 65_536
NOWHERE: deque[tuple[bytes, bytes]] = deque(maxlen=0)  # what is appended to it is gone


class Protocol(HttpToolsProtocol):
    """Reads the requests of one connection."""

    unread = 0  # bytes that came since the last that were of use to a request

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.unread += len(data)
        valid = True
        try:
            self._feed(data)
        except httptools.HttpParserError:
            valid = False
        if self.unread > MAX_HEAD:
            self._refuse(431, "headers_too_large", "The headers are larger than is allowed.")
        elif not valid:
            self._refuse(400, "bad_request", "That is no valid HTTP request.")

    def on_message_begin(self) -> None:
        self.unread = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > MAX_HEAD:  # it came in one piece
            self.unread = size
            raise ValueError("the head is too large")
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = NOWHERE  # type: ignore[assignment]  # with the trailers
        elif self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        elif self._should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                data = self._without_upgrade() + data[upgrade.args[0] :]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """Return the head that was read, without the offer, and read it again."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as Uvicorn's
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer what is no request, and close."""
        with context.bind_request_context(request_id=uuid4().hex):
            self.logger.warning("A request was refused: %s", detail)
            answer = problem(status, code, detail)
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        lines += [b"connection: close\r\n\r\n", bytes(answer.body)]
        self.transport.write(STATUS_LINE[status] + b"".join(lines))
        self.transport.close()
