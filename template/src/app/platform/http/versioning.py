"""API versions: a path prefix for each, and the response headers of deprecated ones.

Deprecation: https://www.rfc-editor.org/rfc/rfc9745. Sunset: https://www.rfc-editor.org/rfc/rfc8594.
"""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Deprecation:
    """The deprecation of a version: its date and its sunset (both UTC), and its successor's URL."""

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
    """A version of the API; ``Version("v1", (items.router,))`` is served under ``/api/v1``."""

    name: str
    routers: tuple[APIRouter, ...]
    deprecation: Deprecation | None = None

    @property
    def prefix(self) -> str:
        return f"/api/{self.name}"


def include_version(app: FastAPI, version: Version) -> None:
    """Add a version's routes; a deprecated one is marked in OpenAPI and in every response."""
    for router in version.routers:
        deprecated = True if version.deprecation else None
        app.include_router(router, prefix=version.prefix, deprecated=deprecated)
    if version.deprecation:
        app.add_middleware(
            DeprecationHeaders, prefix=version.prefix + "/", headers=version.deprecation.headers()
        )


class DeprecationHeaders:
    """Adds headers to every response under a path prefix, errors included."""

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
