"""Rate limits: of every client of the API, and of whatever a route wants to limit.

While Redis is away each process counts for itself, or refuses, as ``RATE_LIMIT_FAIL_OPEN`` says.
"""

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.platform.base.components import Lifespan
from app.platform.base.errors import AppError, TooManyRequests
from app.platform.http.gcra import Limiter, Spent
from app.platform.http.problems import problem
from app.platform.settings import PlatformSettings
from app.platform.settings.rates import Rate

PREFIX = "/api/"  # below it the default limit holds, and answers carry the headers
SPENT = "app.limits.spent"


def address(connection: HTTPConnection) -> str:
    """Return the caller's address: the peer's, or what a proxy of ``TRUSTED_PROXIES`` says."""
    return connection.client.host if connection.client else "unknown"


async def client(connection: HTTPConnection) -> str:
    """Name a client by its address; a whole IPv6 network of /64, since that is what one has."""
    host = address(connection)
    if ":" not in host:
        return host
    try:
        ip = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def limit(name: str, rate: str, by: Callable[..., Any] = client) -> Any:
    """Return a dependency that limits a route: ``dependencies=[limit("exports", "10/hour")]``.

    Routes that give the same ``name`` share one limit. ``by`` is a dependency whose value says who
    is counted: the ``client``, ``app.auth.user_id``, or one of yours that returns a tenant.
    """
    parsed = Rate.parse(rate)

    async def check(connection: HTTPConnection, key: Annotated[str, Depends(by)]) -> None:
        await enforce(connection, name, parsed, key)

    return Depends(check)


async def enforce(connection: HTTPConnection, name: str, rate: Rate, key: str) -> None:
    """Take one request of ``key`` out of a limit; raise ``TooManyRequests`` when it is used up."""
    limiter: Limiter = connection.app.state.limiter
    spent = await limiter.spend(name, rate, key)
    connection.scope.setdefault(SPENT, []).append(spent)
    if not spent.allowed:
        raise refusal(spent)


def refusal(spent: Spent) -> TooManyRequests:
    return TooManyRequests(
        f"Too many requests: try again in {spent.seconds} s.",
        headers={"Retry-After": str(spent.seconds)},
    )


class RateLimit:
    """Enforces the default limit before anything else is done, and adds the headers of all."""

    def __init__(self, app: ASGIApp, rate: Rate | None) -> None:
        self.app = app
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [header for spent in scope.get(SPENT, ()) for header in spent.headers]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        answer = await self._refuse(HTTPConnection(scope)) or self.app
        await answer(scope, receive, with_headers)

    async def _refuse(self, connection: HTTPConnection) -> ASGIApp | None:
        """Return the answer for a client that has used up the default limit."""
        if self.rate is None:
            return None
        try:
            await enforce(connection, "default", self.rate, await client(connection))
        except AppError as error:
            return problem(error.status, error.code, error.detail, headers=error.headers)
        return None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.add_middleware(RateLimit, rate=settings.rate_limit)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.limiter = Limiter(app.state.redis, settings)
        yield

    return lifespan
