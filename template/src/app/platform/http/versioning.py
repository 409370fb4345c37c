"""API versions: a path prefix for each, and the response headers of deprecated ones.

Deprecation: https://www.rfc-editor.org/rfc/rfc9745. Sunset: https://www.rfc-editor.org/rfc/rfc8594.
"""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import partial

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.platform.base.paths import route_path

FIRST_VERSION = "v1"


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
    """A version of the API; ``Version("v1", (orders.router,))`` is served under ``/api/v1``."""

    name: str
    routers: tuple[APIRouter, ...]
    deprecation: Deprecation | None = None

    @property
    def prefix(self) -> str:
        return f"/api/{self.name}"


def include_version(app: FastAPI, version: Version) -> None:
    """Add a version's routes; a deprecated one is marked in OpenAPI and in every response."""
    app.state.api_prefixes = (*getattr(app.state, "api_prefixes", ()), version.prefix)
    for router in version.routers:
        app.include_router(
            router,
            prefix=version.prefix,
            deprecated=True if version.deprecation else None,
            generate_unique_id_function=partial(operation_id, version),
        )
    if version.deprecation:
        app.add_middleware(
            DeprecationHeaders, prefix=version.prefix + "/", headers=version.deprecation.headers()
        )


def operation_id(version: Version, route: APIRoute) -> str:
    """The OpenAPI ``operationId`` of a route: its function's name, and the version if not v1.

    Generated clients name their methods after it, so it depends on nothing that may be added.
    """
    return route.name if version.name == FIRST_VERSION else f"{route.name}_{version.name}"


def location(request: Request, path: str) -> str:
    """URL path of a resource, such as ``"/orders/7"``, in the request's version of the API.

    For a request outside of the API, in the first version.
    """
    prefixes: tuple[str, ...] = request.app.state.api_prefixes
    called, root_path = route_path(request.scope), request.scope.get("root_path", "")
    version = next((each for each in prefixes if called.startswith(f"{each}/")), prefixes[0])
    return f"{root_path}{version}{path}"


class DeprecationHeaders:
    """Adds headers to every response under a path prefix, errors included."""

    def __init__(self, app: ASGIApp, prefix: str, headers: dict[str, str]) -> None:
        self.app = app
        self.prefix = prefix
        self.headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            started = message["type"] == "http.response.start"
            # Only now: the request middleware, inside this one, sets the path prefix.
            if started and route_path(scope).startswith(self.prefix):
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers)
