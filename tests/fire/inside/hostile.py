"""What strangers send: every answer is a clear one, none is a 500, and nobody else notices."""

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
from tests.fire._wire import Caller, children, exchange, request, resident
from tests.fire.conftest import FULL, Note
from tests.system.conftest import serve
from tests.system.serving import Serve, Server

__all__ = ["serve"]

EXAMPLES = "1000" if FULL else "40"
FORM = "application/x-www-form-urlencoded"
LAST = b"GET /test/pid HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


async def signed_in(server: Server) -> dict[str, str]:
    async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
        return await sign_in(client, "hostile@example.com")


def failures(server: Server) -> list[dict[str, Any]]:
    """Return the lines of the log that tell of a fault of ours. Each line of it has to be JSON."""
    return [line for line in server.lines() if line["level"] in ("error", "critical")]


async def test_generated_input_does_not_break_the_contract(
    serve: Serve, tmp_path: Path, note: Note
) -> None:
    """Schemathesis in all its phases: examples, coverage, fuzzing, and sequences of calls."""
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour", ACCESS_TOKEN_LIFETIME="3600")
    headers = await signed_in(server)
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
    tried = re.search(r"(\d[\d,]*) generated", output)
    assert tried, output
    note(inputs=int(tried[1].replace(",", "")), server_errors=len(failures(server)))
    assert process.returncode == 0, output[-6000:]
    assert not failures(server)


def bodies(headers: dict[str, str]) -> dict[str, bytes]:
    """Bodies that are not what they say, or more than they seem."""

    def create(body: bytes, kind: str = "application/json") -> bytes:
        return request("POST", "/api/v1/items", headers, body, kind)

    def login(body: bytes, kind: str = FORM) -> bytes:
        return request("POST", "/api/v1/auth/login", None, body, kind)

    part = b'--x\r\nContent-Disposition: form-data; name="username"'
    multipart = "multipart/form-data; boundary=x"
    return {
        "100,000 brackets": create(b"[" * 100_000),
        "objects in objects": create(b'{"a":' * 100_000),
        "a deep field": create(b'{"name":' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
        "1e400": create(b'{"name":1e400}'),
        "5,000 digits": create(b'{"name":1' + b"0" * 5_000 + b"}"),
        "NaN": create(b'{"name":NaN,"description":-Infinity}'),
        "NUL": create(b'{"name":"a\\u0000b"}'),
        "NUL, raw": create(b'{"name":"a\x00b"}'),
        "half a character": create(b'{"name":"\\ud800"}'),
        "half a character as a name": create(b'{"\\udfff":1}'),
        "no UTF-8": create(b'{"name":"\xff\xc0\xaf"}'),
        "gzip": create(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00"),
        "XML": create(b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>"),
        "JSON as a form": create(b'{"name":"x"}', FORM),
        "JSON as parts": create(b'{"name":"x"}', multipart),
        "no type": create(b'{"name":"x"}', ""),
        "2 MB": create(b'{"name":"' + b"x" * 2_000_000 + b'"}'),
        "a form with NUL": login(b"username=a%00b&password=c%00d"),
        "a form with half a character": login(b"username=%ED%A0%80&password=%ED%A0%80"),
        "20,000 fields": login(b"&".join(b"a%d=1" % n for n in range(20_000))),
        "a file for a name": login(part + b'; filename="a"\r\n\r\nz\r\n--x--', multipart),
        "parts without an end": login(part + b"\r\n\r\nz", multipart),
        "3,000 parts": login((part + b"\r\n\r\nz\r\n") * 3_000 + b"--x--", multipart),
        "parts without a boundary": login(part, "multipart/form-data"),
        "an e-mail to chew on": request(
            "POST",
            "/api/v1/auth/register",
            None,
            json.dumps({"email": "a" * 120 + "@" + "a." * 60 + "-", "password": "x" * 20}).encode(),
        ),
        "10,000 hops of an e-mail": request(
            "POST",
            "/api/v1/auth/register",
            None,
            json.dumps({"email": "a@" + "xn--." * 10_000, "password": "x" * 20}).encode(),
        ),
    }


def heads(item: str, headers: dict[str, str]) -> dict[str, bytes]:
    """Paths and headers that lead elsewhere, say something else, or say too much."""

    def get(path: str, **more: str) -> bytes:
        return request("GET", path, headers | {k.replace("_", "-"): v for k, v in more.items()})

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
        **{f"since {date[:40]}": get(item, If_Modified_Since=date) for date in dates},
        "CONNECT": request("CONNECT", "evil.test:443"),
        "10,000 tags": get(item, If_None_Match='"x", ' * 10_000),
        "12,000 cookies": get(item, Cookie="a=b; " * 12_000),
        "8,000 headers": get(item, **{f"x{n}": "" for n in range(8_000)}),
        "a million headers": get(item)[:-2] + b"a:\r\n" * 1_000_000 + b"\r\n",
        "a header of 4 MB": get(item, X_A="b" * 4_000_000),
        "a line of 4 MB": get("/" + "b" * 4_000_000),
        "4 MB of trailers": request("POST", "/nowhere", {"Transfer-Encoding": "chunked"})
        + b"0\r\n"
        + b"a: b\r\n" * 700_000
        + b"\r\n",
        "ranges": get(item, Range="bytes=" + "0-1," * 10_000),
        "another method": get(item, X_HTTP_Method_Override="DELETE", X_Method_Override="DELETE"),
        "what is accepted": get("/metrics", Accept="application/openmetrics-text;version=x.y"),
        "encodings": get(item, Accept_Encoding="gzip;q=\xff, " * 4_000),
        "a trace": get(item, traceparent=trace, tracestate="a=b," * 10_000 + "\xff"),
        "baggage": get(item, traceparent=trace, baggage="a=%ff;x," * 5_000),
        "an id": get(item, X_Request_ID="\xe9 {}\\"),
        "an id in two lines": get(item, X_Request_ID="a\r\n b\x0bc"),
        "whose": request("GET", item, {"Authorization": "Bearer \xff\xfe" + "." * 9_000}),
        "expectations": get(item, Expect="the worst"),
        "HTTP/0.9": b"GET /\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "a WebSocket": get(item, Connection="Upgrade", Upgrade="websocket"),
    }


def smuggled() -> dict[str, bytes]:
    """Requests of which a proxy might see one, and the service two."""

    def post(headers: bytes, body: bytes = b"") -> bytes:
        return b"POST /nowhere HTTP/1.1\r\nHost: test\r\n" + headers + b"\r\n" + body + SMUGGLED

    def chunked(body: bytes) -> bytes:
        return post(b"Transfer-Encoding: chunked\r\n", body)

    end = b"0\r\n\r\n"
    lengths = (b": +0", b": -1", b": 0x0", b" : 0", b": 0, 34", b": ", b": 18446744073709551616")
    codings = (b": xchunked", b" : chunked", b": \x0bchunked", b': "chunked"', b": chunked, gzip")
    sizes = (b"FFFFFFFFFFFFFFFFF\r\n", b"10000000000000000\r\n", b"-1\r\n", b"0x0\r\n\r\n")
    loose = (b"0\n\n", b"0 \r\n\r\n", b"0;a\nb\r\n\r\n", b"1\r\nax0\r\n\r\n", b"2;\rxx\r\n0\r\n")
    return {
        "both": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", end),
        "both, turned": post(b"Transfer-Encoding: chunked\r\nContent-Length: 34\r\n", end),
        "two lengths": post(b"Content-Length: 0\r\nContent-Length: 34\r\n"),
        "two codings": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", end),
        **{f"length{given!r}": post(b"Content-Length" + given + b"\r\n") for given in lengths},
        **{f"coding{c!r}": post(b"Transfer-Encoding" + c + b"\r\n", end) for c in codings},
        **{f"chunk {size!r}": chunked(size) for size in (*sizes, *loose)},
        "bare line feeds": b"POST /nowhere HTTP/1.1\nHost: test\nContent-Length: 0\n\n" + SMUGGLED,
        "a line feed inside": post(b"X: a\nTransfer-Encoding: chunked\r\n", end),
        "a folded line": post(b"X: a\r\n Transfer-Encoding: chunked\r\n", end),
        "a NUL": post(b"Content-Length\x00: 0\r\n"),
        "a space first": b"GET / HTTP/1.1\r\n Host: test\r\n\r\n" + SMUGGLED,
        "in a body": post(b"Content-Length: 36\r\n").replace(b"36", b"%d" % len(SMUGGLED)),
        "a trailer": chunked(b"0\r\nContent-Length: 34\r\n\r\n"),
        "after the end": b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n" + SMUGGLED,
    }


def look_at(name: str, received: bytes) -> list[int]:
    """Check what came back; return the statuses."""
    answers = re.split(rb"(?:^|(?<=[^\r\n]))HTTP/1\.1 (?=\d{3} )", received)[1:]
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(answer[:3])
        assert status < 500, (name, answer[:300])
        assert not re.search(rb"(?im)^(set-cookie|x):", head), (name, head)
        problem = b"application/problem+json" in head
        assert problem or status < 400 or not body or b"WebSocket" in body, (name, answer[:300])
    return [int(answer[:3]) for answer in answers]


async def test_malformed_requests_do_not_break_the_server(serve: Serve, note: Note) -> None:
    """Each on a connection of its own, followed by an honest request; others go on meanwhile."""
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour")
    headers = await signed_in(server)
    caller = Caller(server)
    assert await caller.ask(request("POST", "/api/v1/items", headers, b'{"name":"x"}')) == 201
    item = f"/api/v1/items/{json.loads(caller.body)['id']}"
    before = {pid: resident(pid) for pid in children(server.process.pid)}
    cases = bodies(headers) | heads(item, headers)
    statuses: Counter[int] = Counter()
    for name, sent in cases.items():
        received = await exchange(server, sent + LAST)
        statuses.update(look_at(name, received))
        assert await caller.ask(request("GET", item, headers)) == 200, name
    for name, sent in smuggled().items():
        received = await exchange(server, sent, 3)
        assert look_at(name, received) in ([400], [404]), (name, received)
        assert await caller.ask(request("GET", item, headers)) == 200, name
    grown = max(resident(pid) - size for pid, size in before.items())  # each is still there
    caller.close()
    assert server.stop() == 0
    lines = server.lines()
    assert not failures(server)
    assert "/smuggled" not in [line.get("path") for line in lines]
    tried = len(cases) + len(smuggled())
    answered = [line for line in lines if line.get("path") == item and line.get("status") == 200]
    assert len(answered) >= tried
    note(inputs=tried, statuses=dict(sorted(statuses.items())), megabytes_more=round(grown))
    assert grown < 60


def texts() -> list[str]:
    """Every character there is (of some thousand, a sample), between two letters."""
    step = 1 if FULL else 61
    every = (chr(n) for n in range(1, 0x110000, step) if not 0xD800 <= n < 0xE000)
    known = [c for c in every if FULL or unicodedata.category(c) not in ("Cn", "Co")]
    size = 150
    pieces = ["".join(known[n : n + size]) for n in range(0, len(known), size)]
    odd = ["\u202eevil\u2066", "e\u0301" * 40, "\u0300" * 99, "\U0001f469\u200d\U0001f680"]
    return [f"x{piece}x" for piece in (*pieces, *odd, "%00", "\\u0000", "' OR 1=1 --", "\r\nx: y")]


async def test_text_round_trips_or_is_refused(serve: Serve, note: Note) -> None:
    server = serve(RATE_LIMIT="off", REGISTRATION_LIMIT="100000/hour", ACCESS_LOG_SAMPLE_RATE="0")
    headers = await signed_in(server)
    tried = texts()
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        for text in tried:
            sent = {"name": text, "description": text}
            made = await client.post("/api/v1/items", json=sent)
            assert made.status_code == 201, text
            kept = (await client.get(made.headers["Location"])).json()
            assert (kept["name"], kept["description"]) == (text, text)
            person = {"email": f"{text[:60]}@example.com", "password": text.ljust(12)}
            answer = await client.post("/api/v1/auth/register", json=person)
            assert answer.status_code in (201, 409, 422), text
        for field in ("name", "description"):
            for text in ("a\0b", "\0"):
                answer = await client.post("/api/v1/items", json={"name": "x"} | {field: text})
                assert answer.status_code == 422
    note(texts=len(tried), characters=sum(map(len, tried)))
    assert not failures(server)


async def test_only_trusted_proxies_set_the_client_address(
    serve: Serve, settings: Settings, note: Note
) -> None:
    """A stranger who claims to be a hundred others is one, in the limits and in the audit trail."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()
    server = serve(
        TRUSTED_PROXIES="192.0.2.1", RATE_LIMIT="50/hour", ALLOWED_HOSTS="test,127.0.0.1"
    )
    statuses: Counter[int] = Counter()
    caller = Caller(server)
    for number in range(100):
        claims = {
            "X-Forwarded-For": f"198.51.100.{number}",
            "Forwarded": f"for=198.51.100.{number};host=evil.test;proto=https",
            "X-Real-IP": f"198.51.100.{number}",
            "X-Forwarded-Host": "evil.test",
            "X-Forwarded-Proto": "https",
            "Authorization": "Bearer nonsense",
        }
        statuses[await caller.ask(request("GET", "/api/v1/items", claims))] += 1
    assert statuses == {401: 50, 429: 50}
    assert await caller.ask(request("GET", "/api/v1/items", {"Host": "evil.test"})) == 400
    for absolute in ("http://evil.test/api/v1/items", "http://test@evil.test/"):
        assert await caller.ask(request("GET", absolute)) in (400, 404, 429)
    refused = [line for line in server.lines() if line["event"] == "audit.authenticate"]
    note(claims=100, taken_for=len({line["client_ip"] for line in refused}))
    assert {line["client_ip"] for line in refused} == {"127.0.0.1"}
    assert "evil.test" not in caller.body.decode()
    caller.close()
