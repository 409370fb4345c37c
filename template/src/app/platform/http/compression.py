"""Response compression with gzip, as ``Accept-Encoding`` asks (RFC 9110, section 12.5.3).

A compressed response is another representation, and needs another strong ETag (section 8.8.3.3):
``"1"`` becomes ``"1-gzip"``. Conditions that name the latter reach the routes as ``"1"``.
"""

import re

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.platform.http.problems import problem
from app.platform.settings import PlatformSettings

GZIP_MIN_SIZE = 1024  # bytes; smaller responses gain less than compression costs
GZIP_LEVEL = 4  # of 9; higher levels take longer and save little more
REFUSED = -1
SUFFIX = b'-gzip"'  # of the ETag of a compressed response
QUALITY = re.compile(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
VARY = (b"vary", b"Accept-Encoding")
CONDITIONS = (b"if-match", b"if-none-match")  # not If-Range: a range is never compressed


class Compression:
    """Compresses responses for clients that prefer gzip; 406 for those that accept no coding."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        accepted = [value for name, value in scope["headers"] if name == b"accept-encoding"]
        min_size = minimum_size(b",".join(accepted)) if accepted else None
        if min_size == REFUSED:
            detail = "Responses are sent with gzip or unencoded; Accept-Encoding excludes both."
            await problem(406, "not_acceptable", detail)(scope, receive, send)
            return
        revalidates = _restore_conditions(scope, gzip=min_size is not None)

        async def with_validators(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                # A 304 says which of the client's responses is valid.
                encoded = revalidates if message["status"] == 304 else b"content-encoding" in names
                if encoded or b"vary" in names:
                    headers = MutableHeaders(raw=list(message["headers"]))
                    if encoded:
                        _mark_etag(headers)
                    if "accept-encoding" not in headers.get("Vary", "").lower():
                        headers.add_vary_header("Accept-Encoding")
                    message["headers"] = headers.raw
                else:  # most responses, without the cost of parsing headers
                    message["headers"] = [*message["headers"], VARY]
            await send(message)

        app = self.app
        if min_size is not None:
            app = GZipResponder(app, min_size, compresslevel=GZIP_LEVEL)
        await app(scope, receive, with_validators)


def minimum_size(accepted: bytes) -> int | None:
    """The size from which a response is compressed, by the value of ``Accept-Encoding``.

    ``None``: never. ``REFUSED``: the client accepts neither gzip nor an unencoded response.
    """
    qualities = dict(map(_coding, accepted.lower().split(b",")))
    wildcard = qualities.get(b"*")
    gzip = qualities.get(b"gzip", qualities.get(b"x-gzip", wildcard)) or 0.0
    identity = qualities.get(b"identity", wildcard)
    if identity == 0:
        return 1 if gzip else REFUSED
    return GZIP_MIN_SIZE if gzip and gzip >= (identity or 0) else None


def _coding(item: bytes) -> tuple[bytes, float]:
    """A content coding and its quality: 1 by default, 0 if it is malformed."""
    name, _, parameter = item.partition(b";")
    if not parameter.strip():
        return name.strip(), 1.0
    quality = QUALITY.fullmatch(parameter.strip())
    return name.strip(), float(quality[1]) if quality else 0.0


def _restore_conditions(scope: Scope, *, gzip: bool) -> bool:
    """Restore the routes' own ETags in conditions; return whether a gzip one may be revalidated."""
    if not any(SUFFIX in value for name, value in scope["headers"] if name in CONDITIONS):
        return False
    headers, revalidates = [], False
    for name, value in scope["headers"]:
        # Without gzip, a cached compressed response is not the one that would be sent.
        restored = name == b"if-match" or (gzip and name in CONDITIONS)
        headers.append((name, value.replace(SUFFIX, b'"') if restored else value))
        revalidates = revalidates or (gzip and name == b"if-none-match" and SUFFIX in value)
    scope["headers"] = headers
    return revalidates


def _mark_etag(headers: MutableHeaders) -> None:
    etag = headers.get("ETag", "")
    if etag.startswith('"'):
        headers["ETag"] = etag[:-1] + SUFFIX.decode()


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_middleware(Compression)
