"""The HTTP/1.1 protocol: the limits and checks that Uvicorn's parser lacks.

llhttp is strict about where a request ends, but without this class the size of headers and trailers
is unlimited, trailers are added to the headers of a request that is already being handled, and a
request that offers another protocol (``Upgrade: h2c``, as Java's client does) loses its body.
"""

import re
from collections import deque
from collections.abc import Mapping
from uuid import uuid4

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.platform.base import context
from app.platform.http.middleware import default_headers
from app.platform.http.problems import ProblemResponse, problem
from app.platform.settings import PlatformSettings

# Bytes of request line and headers, of trailers, or of a chunk extension: the limit of Uvicorn's
# other parser, and more than load balancers forward.
MAX_HEADER_BYTES = 65_536
WEBSOCKET_VERSION = b"13"
WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes, in Base64
DISCARD: deque[tuple[bytes, bytes]] = deque(maxlen=0)  # appending to it has no effect


def unrouted_problem(
    status: int,
    code: str,
    detail: str,
    settings: PlatformSettings,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """A problem response to a request that does not reach the app, with the headers of every other.

    The caller binds the request context.
    """
    response = problem(status, code, detail, headers=headers)
    response.headers["X-Request-ID"] = context.current().request_id
    response.raw_headers = default_headers(settings).added_to(response.raw_headers)
    return response


class HttpProtocol(HttpToolsProtocol):
    """The protocol of one connection."""

    header_bytes = 0  # received since the last byte of a body, or of a complete request

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.header_bytes += len(data)
        valid = True
        try:
            self._feed(data)
        except httptools.HttpParserError:
            valid = False
        if self.header_bytes > MAX_HEADER_BYTES:
            self._refuse(431, "headers_too_large", "The headers are too large.")
        elif not valid:
            self._refuse(400, "bad_request", "The request is not valid HTTP.")

    def on_message_begin(self) -> None:
        self.header_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > MAX_HEADER_BYTES:  # it arrived in one piece
            self.header_bytes = size
            raise ValueError("the headers are too large")
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = DISCARD  # type: ignore[assignment]  # trailers are not headers
        elif self.parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is for proxies")
        elif self._should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.header_bytes = 0
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

    def handle_websocket_upgrade(self) -> None:
        """Begin the handshake, if it is valid (RFC 6455, section 4.2.1)."""
        values = {name: value for name, value in self.headers if name.startswith(b"sec-websocket-")}
        if values.get(b"sec-websocket-version") != WEBSOCKET_VERSION:
            headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": WEBSOCKET_VERSION.decode()}
            self._refuse(426, "upgrade_required", "WebSockets have version 13.", headers)
        elif not WEBSOCKET_KEY.fullmatch(values.get(b"sec-websocket-key", b"")):
            self._refuse(400, "bad_request", "The handshake has no valid Sec-WebSocket-Key.")
        else:
            super().handle_websocket_upgrade()

    def _without_upgrade(self) -> bytes:
        """The headers received so far, without ``Upgrade``, to be parsed again."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as Uvicorn's
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer an invalid request with a problem document, and close the connection."""
        with context.bind_request_context(request_id=uuid4().hex):
            self.logger.warning("request refused: %s", detail)
            settings = self.app_state["settings"]
            response = unrouted_problem(status, code, detail, settings, headers)
        sent = [*self.server_state.default_headers, *response.raw_headers]
        lines = [name + b": " + value + b"\r\n" for name, value in sent]
        lines += [b"connection: close\r\n\r\n", bytes(response.body)]
        self.transport.write(STATUS_LINE[status] + b"".join(lines))
        self.transport.close()
