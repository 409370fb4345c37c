"""Requests and answers as events of API Gateway's HTTP APIs and of Function URLs.

Both have the payload format 2.0:
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from starlette.types import Message, Scope

Event = dict[str, Any]
Header = tuple[bytes, bytes]


class NotARequest(ValueError):
    """An event of another kind: the function was invoked by something that is no HTTP front."""


def scope_of(event: Event) -> Scope:
    """Return the ASGI scope of a request; raise ``NotARequest`` for what is none."""
    if event.get("version") != "2.0" or "http" not in event.get("requestContext", {}):
        raise NotARequest("This function answers HTTP requests, in the payload format 2.0.")
    http = event["requestContext"]["http"]
    raw_path = event["rawPath"]
    headers = _headers(event)
    host = dict(headers).get(b"host", b"").decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": http["method"],
        "scheme": "https",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": _stage_prefix(raw_path, event["requestContext"].get("stage", "$default")),
        "query_string": event.get("rawQueryString", "").encode(),
        "headers": headers,
        # What the front saw, not what a header says: nobody can pretend to be another.
        "client": (http["sourceIp"], 0),
        "server": (host, 443),
        "state": {},
    }


def _stage_prefix(path: str, stage: str) -> str:
    """The prefix under which clients reach a stage; none through a domain of one's own."""
    prefix = f"/{stage}"
    return prefix if stage != "$default" and f"{path}/".startswith(f"{prefix}/") else ""


def _headers(event: Event) -> list[Header]:
    """Return the headers. Several of one name come as one, by comma; cookies come apart."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in event.get("headers", {}).items()
        if name.lower() != "cookie" or not event.get("cookies")
    ]
    if cookies := event.get("cookies"):
        headers.append((b"cookie", "; ".join(cookies).encode("latin-1", "replace")))
    return headers


def body_of(event: Event) -> bytes:
    """Return the body of a request."""
    body = event.get("body") or ""
    return b64decode(body) if event.get("isBase64Encoded") else body.encode()


class Answer:
    """Collects what the service sends: an event is answered in one piece."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self._headers: Sequence[Header] = ()
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], message.get("headers", ())
        else:
            self._body += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    def to_event(self) -> Event:
        """Return it as the front takes it; what is no text is base64."""
        try:
            body, encoded = self._body.decode(), False
        except UnicodeDecodeError:
            body, encoded = b64encode(self._body).decode(), True
        fields: dict[str, list[str]] = {}
        for name, value in self._headers:
            fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        cookies = fields.pop("set-cookie", [])
        return {
            "statusCode": self.status,
            "headers": {name: ", ".join(values) for name, values in fields.items()},
            "cookies": cookies,
            "body": body,
            "isBase64Encoded": encoded,
        }
