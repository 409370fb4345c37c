"""Hostile input is refused with a well-formed response, never a 500, and affects nobody else."""

import asyncio
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from redis import Redis

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import ROOT
from tests.fire._wire import KeepAliveClient, exchange, gunicorn_workers, request, resident
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve
from tests.system.serving import Serve, Server

__all__ = ["serve"]

EXAMPLES = "1000" if FULL else "40"
FORM = "application/x-www-form-urlencoded"
LAST = b"GET /test/pid HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


async def auth_headers(server: Server) -> dict[str, str]:
    async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
        return await sign_in(client, "hostile@example.com")


def logged_errors(server: Server) -> list[dict[str, Any]]:
    """The log lines at level error or above; every line must be JSON."""
    return [line for line in server.lines() if line["level"] in ("error", "critical")]


async def test_generated_input_does_not_break_the_contract(
    serve: Serve, tmp_path: Path, note: Note
) -> None:
    """Runs all phases of Schemathesis: examples, coverage, fuzzing, and stateful testing."""
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour", ACCESS_TOKEN_LIFETIME="3600")
    headers = await auth_headers(server)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(ROOT / "schemathesis.toml"), "run", f"{server.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--mode", "all", "--no-color"),
        *("--max-examples", EXAMPLES, "--exclude-path-regex", ".*/logout.*|/test/.*"),
        *([] if FULL else ["--seed", "1"]),
        *(argument for name, value in headers.items() for argument in ("-H", f"{name}:{value}")),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    generated = re.search(r"(\d[\d,]*) generated", output)
    assert generated, output
    note(inputs=int(generated[1].replace(",", "")), server_errors=len(logged_errors(server)))
    assert process.returncode == 0, output[-6000:]
    assert not logged_errors(server)


def malformed_bodies(headers: dict[str, str]) -> dict[str, bytes]:
    """Invalid, mislabelled and oversized bodies."""

    def create(body: bytes, content_type: str = "application/json") -> bytes:
        return request("POST", "/api/v1/items", headers, body, content_type)

    def login(body: bytes, content_type: str = FORM) -> bytes:
        return request("POST", "/api/v1/auth/login", None, body, content_type)

    part = b'--x\r\nContent-Disposition: form-data; name="username"'
    multipart = "multipart/form-data; boundary=x"
    return {
        "100,000 brackets": create(b"[" * 100_000),
        "nested objects": create(b'{"a":' * 100_000),
        "a deeply nested field": create(b'{"name":' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
        "1e400": create(b'{"name":1e400}'),
        "5,000 digits": create(b'{"name":1' + b"0" * 5_000 + b"}"),
        "NaN": create(b'{"name":NaN,"description":-Infinity}'),
        "NUL": create(b'{"name":"a\\u0000b"}'),
        "NUL, raw": create(b'{"name":"a\x00b"}'),
        "a lone surrogate": create(b'{"name":"\\ud800"}'),
        "a lone surrogate as a field name": create(b'{"\\udfff":1}'),
        "invalid UTF-8": create(b'{"name":"\xff\xc0\xaf"}'),
        "gzip": create(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00"),
        "XML": create(b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>"),
        "JSON as a form": create(b'{"name":"x"}', FORM),
        "JSON as multipart": create(b'{"name":"x"}', multipart),
        "no content type": create(b'{"name":"x"}', ""),
        "2 MB": create(b'{"name":"' + b"x" * 2_000_000 + b'"}'),
        "a form with NUL": login(b"username=a%00b&password=c%00d"),
        "a form with a lone surrogate": login(b"username=%ED%A0%80&password=%ED%A0%80"),
        "20,000 form fields": login(b"&".join(b"a%d=1" % n for n in range(20_000))),
        "a file as the user name": login(part + b'; filename="a"\r\n\r\nz\r\n--x--', multipart),
        "unterminated multipart": login(part + b"\r\n\r\nz", multipart),
        "3,000 parts": login((part + b"\r\n\r\nz\r\n") * 3_000 + b"--x--", multipart),
        "multipart without a boundary": login(part, "multipart/form-data"),
        "an e-mail that makes regular expressions backtrack": request(
            "POST",
            "/api/v1/auth/register",
            None,
            json.dumps({"email": "a" * 120 + "@" + "a." * 60 + "-", "password": "x" * 20}).encode(),
        ),
        "an e-mail domain of 10,000 labels": request(
            "POST",
            "/api/v1/auth/register",
            None,
            json.dumps({"email": "a@" + "xn--." * 10_000, "password": "x" * 20}).encode(),
        ),
    }


def malformed_heads(item: str, headers: dict[str, str]) -> dict[str, bytes]:
    """Invalid, contradictory and oversized request lines and headers."""

    def get(path: str, **fields: str) -> bytes:
        return request("GET", path, headers | {k.replace("_", "-"): v for k, v in fields.items()})

    paths = (
        *("/..", "/%2e%2e/%2e%2e/etc/passwd", "/api/v1/../v1/items", "//evil.test/..", "/\\evil"),
        *("/%00", "/api/v1/items/%00", "/api/v1/items?cursor=%00", "/health/live%00"),
        *("/%c0%af", "/%ff", "/\xff", "*", "evil.test:443", "http://", "http://[/", "?", "/#x"),
        *("/%0d%0aSet-Cookie:x=1", "/api/v1/items/%0d%0aX:y", "/{{7*7}}", "/${jndi:ldap://x}"),
        *("/api/v1/items?limit=" + "9" * 5_000, "/api/v1/items?limit=1e400"),
        *("/api/v1/items?limit=NaN", "/api/v1/items?cursor=" + "A" * 500),
        *("/api/v1/items?cursor=%F0%9F%92%A9", "/api/v1/items/" + "9" * 60_000),
        *("/api/v1/items?" + "&".join(f"a{n}=1" for n in range(6_000)), "/" + "-eyJ" * 15_000),
        *("/" + "a" * 60_000 + "@", "/" + "a@" * 30_000, "/" + "%2F" * 20_000),
    )
    dates = ("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 99999999999 00:00:00 GMT", "9" * 9_000)
    trace = f"00-{'0' * 31}1-{'0' * 15}1-01"
    return {
        **{f"GET {path[:40]}": get(path) for path in paths},
        **{f"{method} {item}": request(method, item) for method in ("TRACE", "PRI", "BREW")},
        **{f"modified since {date[:40]}": get(item, If_Modified_Since=date) for date in dates},
        "CONNECT": request("CONNECT", "evil.test:443"),
        "10,000 ETags": get(item, If_None_Match='"x", ' * 10_000),
        "12,000 cookies": get(item, Cookie="a=b; " * 12_000),
        "8,000 headers": get(item, **{f"x{n}": "" for n in range(8_000)}),
        "a million headers": get(item)[:-2] + b"a:\r\n" * 1_000_000 + b"\r\n",
        "a header of 4 MB": get(item, X_A="b" * 4_000_000),
        "a request line of 4 MB": get("/" + "b" * 4_000_000),
        "4 MB of trailers": request("POST", "/nowhere", {"Transfer-Encoding": "chunked"})
        + b"0\r\n"
        + b"a: b\r\n" * 700_000
        + b"\r\n",
        "ranges": get(item, Range="bytes=" + "0-1," * 10_000),
        "method override": get(item, X_HTTP_Method_Override="DELETE", X_Method_Override="DELETE"),
        "an unknown version": get("/metrics", Accept="application/openmetrics-text;version=x.y"),
        "invalid encodings": get(item, Accept_Encoding="gzip;q=\xff, " * 4_000),
        "a long tracestate": get(item, traceparent=trace, tracestate="a=b," * 10_000 + "\xff"),
        "long baggage": get(item, traceparent=trace, baggage="a=%ff;x," * 5_000),
        "an unsafe request id": get(item, X_Request_ID="\xe9 {}\\"),
        "a folded request id": get(item, X_Request_ID="a\r\n b\x0bc"),
        "a token that is not ASCII": request(
            "GET", item, {"Authorization": "Bearer \xff\xfe" + "." * 9_000}
        ),
        "an unknown expectation": get(item, Expect="the worst"),
        "HTTP/0.9": b"GET /\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "a WebSocket": get(item, Connection="Upgrade", Upgrade="websocket"),
    }


def smuggling_attempts() -> dict[str, bytes]:
    """Bytes that a proxy may read as one request and the service as two."""

    def post(headers: bytes, body: bytes = b"") -> bytes:
        return b"POST /nowhere HTTP/1.1\r\nHost: test\r\n" + headers + b"\r\n" + body + SMUGGLED

    def chunked(body: bytes) -> bytes:
        return post(b"Transfer-Encoding: chunked\r\n", body)

    end = b"0\r\n\r\n"
    lengths = (b": +0", b": -1", b": 0x0", b" : 0", b": 0, 34", b": ", b": 18446744073709551616")
    codings = (b": xchunked", b" : chunked", b": \x0bchunked", b': "chunked"', b": chunked, gzip")
    sizes = (b"FFFFFFFFFFFFFFFFF\r\n", b"10000000000000000\r\n", b"-1\r\n", b"0x0\r\n\r\n")
    lenient = (b"0\n\n", b"0 \r\n\r\n", b"0;a\nb\r\n\r\n", b"1\r\nax0\r\n\r\n", b"2;\rxx\r\n0\r\n")
    return {
        "length and coding": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", end),
        "coding and length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 34\r\n", end),
        "two lengths": post(b"Content-Length: 0\r\nContent-Length: 34\r\n"),
        "two codings": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", end),
        **{f"length{value!r}": post(b"Content-Length" + value + b"\r\n") for value in lengths},
        **{f"coding{c!r}": post(b"Transfer-Encoding" + c + b"\r\n", end) for c in codings},
        **{f"chunk {size!r}": chunked(size) for size in (*sizes, *lenient)},
        "bare line feeds": b"POST /nowhere HTTP/1.1\nHost: test\nContent-Length: 0\n\n" + SMUGGLED,
        "a line feed in a header": post(b"X: a\nTransfer-Encoding: chunked\r\n", end),
        "a folded line": post(b"X: a\r\n Transfer-Encoding: chunked\r\n", end),
        "a NUL in a header name": post(b"Content-Length\x00: 0\r\n"),
        "a leading space": b"GET / HTTP/1.1\r\n Host: test\r\n\r\n" + SMUGGLED,
        "in a body": post(b"Content-Length: 36\r\n").replace(b"36", b"%d" % len(SMUGGLED)),
        "a trailer": chunked(b"0\r\nContent-Length: 34\r\n\r\n"),
        "after Connection: close": b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n" + SMUGGLED,
    }


def check_responses(name: str, received: bytes) -> list[int]:
    """Check the responses to the input ``name``; return their statuses."""
    responses = re.split(rb"(?:^|(?<=[^\r\n]))HTTP/1\.1 (?=\d{3} )", received)[1:]
    for response in responses:
        head, _, body = response.partition(b"\r\n\r\n")
        status = int(response[:3])
        assert status < 500, (name, response[:300])
        assert not re.search(rb"(?im)^(set-cookie|x):", head), (name, head)
        problem = b"application/problem+json" in head
        assert problem or status < 400 or not body or b"WebSocket" in body, (name, response[:300])
    return [int(response[:3]) for response in responses]


async def test_malformed_requests_do_not_break_the_server(serve: Serve, note: Note) -> None:
    """Sends each input on a new connection, and a valid request on another one after each."""
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour")
    headers = await auth_headers(server)
    client = KeepAliveClient(server)
    assert await client.send(request("POST", "/api/v1/items", headers, b'{"name":"x"}')) == 201
    item = f"/api/v1/items/{json.loads(client.body)['id']}"
    before = {pid: resident(pid) for pid in gunicorn_workers(server, 2)}
    cases = malformed_bodies(headers) | malformed_heads(item, headers)
    statuses: Counter[int] = Counter()
    for name, sent in cases.items():
        received = await exchange(server, sent + LAST)
        statuses.update(check_responses(name, received))
        assert await client.send(request("GET", item, headers)) == 200, name
    for name, sent in smuggling_attempts().items():
        received = await exchange(server, sent, 3)
        assert check_responses(name, received) in ([400], [404]), (name, received)
        assert await client.send(request("GET", item, headers)) == 200, name
    growth = max(resident(pid) - size for pid, size in before.items())  # no worker was replaced
    client.close()
    assert server.stop() == 0
    lines = server.lines()
    assert not logged_errors(server)
    assert "/smuggled" not in [line.get("path") for line in lines]
    inputs = len(cases) + len(smuggling_attempts())
    served = [line for line in lines if line.get("path") == item and line.get("status") == 200]
    assert len(served) >= inputs
    note(inputs=inputs, statuses=dict(sorted(statuses.items())), megabytes_more=round(growth))
    assert growth < 60


def texts() -> list[str]:
    """Texts with every Unicode character (in a small run, a sample), and some special ones."""
    step = 1 if FULL else 61
    every = (chr(n) for n in range(1, 0x110000, step) if not 0xD800 <= n < 0xE000)
    assigned = [c for c in every if FULL or unicodedata.category(c) not in ("Cn", "Co")]
    size = 150
    pieces = ["".join(assigned[n : n + size]) for n in range(0, len(assigned), size)]
    pieces += ["\u202eevil\u2066", "e\u0301" * 40, "\u0300" * 99, "\U0001f469\u200d\U0001f680"]
    pieces += ["%00", "\\u0000", "' OR 1=1 --", "\r\nx: y"]
    return [f"x{piece}x" for piece in pieces]


async def test_text_round_trips_or_is_refused(serve: Serve, note: Note) -> None:
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour", ACCESS_LOG_SAMPLE_RATE="0")
    headers = await auth_headers(server)
    all_texts = texts()
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        for text in all_texts:
            response = await client.post("/api/v1/items", json={"name": text, "description": text})
            assert response.status_code == 201, text
            item = (await client.get(response.headers["Location"])).json()
            assert (item["name"], item["description"]) == (text, text)
            account = {"email": f"{text[:60]}@example.com", "password": text.ljust(12)}
            response = await client.post("/api/v1/auth/register", json=account)
            too_simple = response.json().get("code") == "common_password"
            assert response.status_code in (201, 409, 422) or too_simple, text
        for field in ("name", "description"):
            for text in ("a\0b", "\0"):
                response = await client.post("/api/v1/items", json={"name": "x"} | {field: text})
                assert response.status_code == 422
    note(texts=len(all_texts), characters=sum(map(len, all_texts)))
    assert not logged_errors(server)


async def test_only_trusted_proxies_set_the_client_address(
    serve: Serve, settings: Settings, note: Note
) -> None:
    """Rate limits and the audit log count a client with a hundred forged addresses as one."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()
    server = serve(
        TRUSTED_PROXIES="192.0.2.1", RATE_LIMIT="50/hour", ALLOWED_HOSTS="test,127.0.0.1"
    )
    statuses: Counter[int] = Counter()
    client = KeepAliveClient(server)
    for number in range(100):
        forged = {
            "X-Forwarded-For": f"198.51.100.{number}",
            "Forwarded": f"for=198.51.100.{number};host=evil.test;proto=https",
            "X-Real-IP": f"198.51.100.{number}",
            "X-Forwarded-Host": "evil.test",
            "X-Forwarded-Proto": "https",
            "Authorization": "Bearer nonsense",
        }
        statuses[await client.send(request("GET", "/api/v1/items", forged))] += 1
    assert statuses == {401: 50, 429: 50}
    assert await client.send(request("GET", "/api/v1/items", {"Host": "evil.test"})) == 400
    for url in ("http://evil.test/api/v1/items", "http://test@evil.test/"):
        assert await client.send(request("GET", url)) in (400, 404, 429)
    refused = [line for line in server.lines() if line["event"] == "audit.authenticate"]
    addresses = {line["client_ip"] for line in refused}
    note(forged_addresses=100, logged_addresses=len(addresses))
    assert addresses == {"127.0.0.1"}
    assert "evil.test" not in client.body.decode()
    client.close()
