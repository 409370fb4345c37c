"""Requests as no library writes them, to the real server: what is odd ends in a clear refusal."""

import re
import socket
from contextlib import suppress

from tests.system.serving import Serve, Server

HOST = b" HTTP/1.1\r\nHost: test\r\n"
WORD = b"POST /test/echo" + HOST
SIZED = WORD + b"Content-Length: 4\r\n"
CHUNKED = WORD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nword\r\n0\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
LAST = b"GET /test/pid" + HOST + b"Connection: close\r\n\r\n"
MANY = b"X: y\r\n" * 200_000


def answers(server: Server, sent: bytes) -> list[bytes]:
    """Send bytes on a connection of their own; return what came back, cut into answers."""
    port = int(server.url.rpartition(":")[2])
    received = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        with suppress(ConnectionError):  # refused while more was on its way
            connection.sendall(sent)
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                received += piece
    return re.split(rb"(?:^|(?<=[^\r\n]))HTTP/1\.1 ", received)[1:]


def test_unusual_requests_are_parsed_correctly_or_refused(serve: Serve) -> None:
    server = serve(WEB_CONCURRENCY="1")
    ignores_an_offer_of_another_protocol(server)
    takes_trailers_for_no_headers(server)
    refuses_with_a_problem(server)
    assert server.get("/test/pid").status_code == 200


def ignores_an_offer_of_another_protocol(server: Server) -> None:
    word, last = answers(server, SIZED + UPGRADE + b"\r\nword" + LAST)
    assert word.startswith(b"200")
    assert b'["word",' in word
    assert last.startswith(b"200")
    several = answers(server, (b"GET /test/pid" + HOST + UPGRADE + b"\r\n") * 20 + LAST)
    assert [answer[:3] for answer in several] == [b"200"] * 21


def takes_trailers_for_no_headers(server: Server) -> None:
    word, last = answers(server, CHUNKED + b"X-Trailer: x\r\n\r\n" + LAST)
    assert b'["word","host","transfer-encoding"]' in word
    assert last.startswith(b"200")


def refuses_with_a_problem(server: Server) -> None:
    for sent, status in {
        b"nonsense\r\n\r\n": b"400",
        b"CONNECT elsewhere:443" + HOST + b"\r\n": b"400",
        b"CONNECT /test/pid" + HOST + b"\r\n": b"400",
        SIZED + b"Transfer-Encoding: chunked\r\n\r\n4\r\nword\r\n0\r\n\r\n": b"400",
        b"GET /" + b"y" * 1_000_000 + HOST + b"\r\n": b"431",
        b"GET /" + HOST + MANY + b"\r\n": b"431",
        b"GET /" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n": b"431",
        CHUNKED + MANY + b"\r\n": b"431",
    }.items():
        last = answers(server, sent)[-1]
        assert last.startswith(status), sent[:40]
        assert b"application/problem+json" in last
