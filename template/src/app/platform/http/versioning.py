"""API versions: each has its own prefix; a deprecated one says so in every answer.

https://www.rfc-editor.org/rfc/rfc9745 defines Deprecation, https://www.rfc-editor.org/rfc/rfc8594
Sunset.
"""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Deprecation:
    """Since when a version is deprecated, when it goes away, and what replaces it.

    Both times have a time zone (UTC).
    """

    since: datetime
    sunset: datetime
    successor: str

    def headers(self) -> dict[str, str]:
        return {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Sunset": format_datetime(self.sunset, usegmt=True),
            "Link": f'<{self.successor}>; rel="successor-version"',
        }


@dataclass(frozen=True)
class Version:
    """A version of the API: ``Version("v1", [items.router])`` is served below ``/api/v1``."""

    name: str
    routers: tuple[APIRouter, ...]
    deprecation: Deprecation | None = None

    @property
    def prefix(self) -> str:
        return f"/api/{self.name}"


def serve(app: FastAPI, version: Version) -> None:
    """Serve a version; if it is deprecated, say so in the API document and in every answer."""
    for router in version.routers:
        deprecated = True if version.deprecation else None
        app.include_router(router, prefix=version.prefix, deprecated=deprecated)
    if version.deprecation:
        app.add_middleware(
            DeprecationHeaders, prefix=version.prefix + "/", headers=version.deprecation.headers()
        )


class DeprecationHeaders:
    """Adds the headers to every answer below a prefix, to errors too."""

    def __init__(self, app: ASGIApp, prefix: str, headers: dict[str, str]) -> None:
        self.app = app
        self.prefix = prefix
        self.headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.prefix):
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers)
