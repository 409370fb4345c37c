"""Request headers: joining repeated lines, and refusing invalid ones."""

import re
from collections.abc import Mapping, Sequence

from app.platform.http.problems import ProblemResponse, problem

Header = tuple[bytes, bytes]

# Headers with one value: with two, a proxy and this service could each act on another one.
SINGLETONS = (b"authorization", b"content-length", b"content-type", b"host")
# RFC 3986, section 3.2.2, as a URL may have it: an IP address in brackets or a name, and a port.
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?")


def joined(lines: Sequence[Header]) -> dict[bytes, bytes]:
    """The value of each header; several lines are one list (RFC 9110, section 5.3)."""
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers
    values: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(each) for name, each in values.items()}


def refuse(
    http_version: str, lines: Sequence[Header], headers: Mapping[bytes, bytes]
) -> ProblemResponse | None:
    """The response to a request with invalid headers; ``None`` if they are valid.

    ``headers``: ``joined(lines)``.
    """
    if len(headers) < len(lines):
        names = [name for name, _ in lines]
        for name in SINGLETONS:
            if names.count(name) > 1:
                detail = f"The request has more than one {name.decode().title()} header."
                return problem(400, "bad_request", detail)
    if (host := headers.get(b"host")) is None:
        if http_version == "1.1":  # RFC 9112, section 3.2
            return problem(400, "bad_request", "The request has no Host header.")
    elif not HOST.fullmatch(host):
        return problem(400, "bad_request", "The Host header is not a host.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        detail = "The body is compressed; send it without Content-Encoding."
        accepted = {"Accept-Encoding": "identity"}  # RFC 9110, section 12.5.3
        return problem(415, "unsupported_media_type", detail, headers=accepted)
    return None
