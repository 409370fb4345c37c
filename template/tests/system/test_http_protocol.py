"""Unusual and invalid HTTP, sent to the real server."""

import re
import socket
from contextlib import suppress

from tests.system.serving import Serve, Server

HOST = b" HTTP/1.1\r\nHost: test\r\n"
ECHO = b"POST /test/echo" + HOST
SIZED = ECHO + b"Content-Length: 4\r\n"
CHUNKED = ECHO + b"Transfer-Encoding: chunked\r\n\r\n4\r\nword\r\n0\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
LAST = b"GET /test/pid" + HOST + b"Connection: close\r\n\r\n"
MANY_HEADERS = b"X: y\r\n" * 200_000


def exchange(server: Server, sent: bytes) -> list[bytes]:
    """Send bytes on a new connection; return the responses."""
    port = int(server.url.rpartition(":")[2])
    received = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        with suppress(ConnectionError):  # refused while it was being sent
            connection.sendall(sent)
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                received += piece
    return re.split(rb"(?:^|(?<=[^\r\n]))HTTP/1\.1 ", received)[1:]


def test_unusual_requests_are_parsed_correctly_or_refused(serve: Serve) -> None:
    server = serve(WEB_CONCURRENCY="1")
    check_that_upgrades_to_http2_are_ignored(server)
    check_that_trailers_are_not_headers(server)
    check_that_invalid_requests_are_refused(server)
    assert server.get("/test/pid").status_code == 200


def check_that_upgrades_to_http2_are_ignored(server: Server) -> None:
    echoed, last = exchange(server, SIZED + UPGRADE + b"\r\nword" + LAST)
    assert echoed.startswith(b"200")
    assert b'["word",' in echoed
    assert last.startswith(b"200")
    responses = exchange(server, (b"GET /test/pid" + HOST + UPGRADE + b"\r\n") * 20 + LAST)
    assert [response[:3] for response in responses] == [b"200"] * 21


def check_that_trailers_are_not_headers(server: Server) -> None:
    echoed, last = exchange(server, CHUNKED + b"X-Trailer: x\r\n\r\n" + LAST)
    assert b'["word","host","transfer-encoding"]' in echoed
    assert last.startswith(b"200")


def check_that_invalid_requests_are_refused(server: Server) -> None:
    for sent, status in {
        b"nonsense\r\n\r\n": b"400",
        b"CONNECT elsewhere:443" + HOST + b"\r\n": b"400",
        b"CONNECT /test/pid" + HOST + b"\r\n": b"400",
        SIZED + b"Transfer-Encoding: chunked\r\n\r\n4\r\nword\r\n0\r\n\r\n": b"400",
        b"GET /" + b"y" * 1_000_000 + HOST + b"\r\n": b"431",
        b"GET /" + HOST + MANY_HEADERS + b"\r\n": b"431",
        b"GET /" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n": b"431",
        CHUNKED + MANY_HEADERS + b"\r\n": b"431",
    }.items():
        last = exchange(server, sent)[-1]
        assert last.startswith(status), sent[:40]
        assert b"application/problem+json" in last
