"""Rate limits: a default one per client for the whole API, and those that routes declare.

While Redis is unavailable, each process counts alone or answers 503 (``RATE_LIMIT_FAIL_OPEN``).
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
from app.platform.base.paths import route_path
from app.platform.http.gcra import RateLimiter, RateLimitResult
from app.platform.http.problems import problem
from app.platform.settings import PlatformSettings
from app.platform.settings.rates import Rate

PREFIX = "/api/"  # paths that the default limit covers and whose responses have the headers
# Of a request, and of a WebSocket's handshake.
RESPONSE_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
RESULTS_KEY = "app.rate_limit.results"


def client_ip(connection: HTTPConnection) -> str:
    """The client's IP address: the peer's, or the one that a trusted proxy forwards."""
    return connection.client.host if connection.client else "unknown"


async def client_key(connection: HTTPConnection) -> str:
    """The client's IP address; for IPv6 its /64 network, the smallest that a client is assigned."""
    host = client_ip(connection)
    if ":" not in host:
        return host
    try:
        ip = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def limit(name: str, rate: str, by: Callable[..., Any] = client_key) -> Any:
    """A dependency that limits a route: ``dependencies=[limit("exports", "10/hour")]``.

    Routes with the same ``name`` share one limit. ``by``: a dependency that returns the key to
    count by, such as ``client_key``, ``app.auth.user_id``, or one of yours for a tenant.
    """
    parsed = Rate.parse(rate)

    async def check(connection: HTTPConnection, key: Annotated[str, Depends(by)]) -> None:
        await check_rate_limit(connection, name, parsed, key)

    return Depends(check)


async def check_rate_limit(connection: HTTPConnection, name: str, rate: Rate, key: str) -> None:
    """Count one request of ``key``; raise ``TooManyRequests`` when the limit is exceeded."""
    limiter: RateLimiter = connection.app.state.limiter
    result = await limiter.hit(name, rate, key)
    connection.scope.setdefault(RESULTS_KEY, []).append(result)
    if not result.allowed:
        raise too_many_requests(result)


def too_many_requests(result: RateLimitResult) -> TooManyRequests:
    return TooManyRequests(
        f"Too many requests: try again in {result.reset_seconds} s.",
        headers={"Retry-After": str(result.reset_seconds)},
    )


class RateLimitMiddleware:
    """Enforces the default limit, and adds the headers of every limit."""

    def __init__(self, app: ASGIApp, rate: Rate | None) -> None:
        self.app = app
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not route_path(scope).startswith(PREFIX):
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] in RESPONSE_STARTS:
                added = [
                    header for result in scope.get(RESULTS_KEY, ()) for header in result.headers
                ]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        handler = await self._refusal(HTTPConnection(scope)) or self.app
        await handler(scope, receive, with_headers)

    async def _refusal(self, connection: HTTPConnection) -> ASGIApp | None:
        """The response to a request that the default limit refuses; ``None`` if it is allowed."""
        if self.rate is None:
            return None
        try:
            await check_rate_limit(connection, "default", self.rate, await client_key(connection))
        except AppError as error:
            return problem(error.status, error.code, error.detail, headers=error.headers)
        return None


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.add_middleware(RateLimitMiddleware, rate=settings.rate_limit)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.limiter = limiter = RateLimiter(app.state.redis, settings)
        try:
            yield
        finally:
            await limiter.close()

    return lifespan
