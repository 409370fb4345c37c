"""A provider in this process, which a test can turn off, make slow, or give new keys."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.dev.provider import Provider, create_app
from app.settings import Settings
from tests.conftest import running_app

CONFIGURATION = "/.well-known/openid-configuration"
JWKS = "/jwks"


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it is so, for a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nobody would tell)
            await asyncio.sleep(0.01)


class Peer:
    """A provider, what it was asked, and what it answers instead of the truth."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.provider = Provider(f"http://127.0.0.1:{port}")
        self.app: ASGIApp = create_app(self.provider)
        self.asked: Counter[str] = Counter()
        self.instead: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {}
        self.delay = 0.0  # seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked[scope["path"]] += 1
        await asyncio.sleep(self.delay)
        if answer := self.instead.get(scope["path"]):
            await answer(receive, send)
        else:
            await self.app(scope, receive, send)

    def answer(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer with this from now on."""
        given = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]

        async def send_it(_: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": status, "headers": given})
            await send({"type": "http.response.body", "body": body})

        self.instead[path] = send_it

    def token(self, **claims: Any) -> str:
        """Return an access token of Ada, with some claims changed."""
        return self.provider.sign(self.provider.claims("ada@example.com") | claims)

    def headers(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(**claims)}"}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Answer; afterwards, connections are refused."""
        config = uvicorn.Config(self, lifespan="off", log_level="error", log_config=None)
        server = uvicorn.Server(config)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            task = asyncio.create_task(server._serve([listener]))
            try:
                await eventually(lambda: server.started)
                yield
            finally:
                server.should_exit = server.force_exit = True
                await task


@pytest.fixture
def peer() -> Peer:
    """A provider that is not up yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Peer(probe.getsockname()[1])


@pytest.fixture
def trusting(settings: Settings, peer: Peer) -> Settings:
    """The settings of a service that trusts this provider."""
    return settings.model_copy(update={"oidc_issuer": peer.provider.issuer})


@pytest.fixture
async def service(trusting: Settings) -> AsyncIterator[FastAPI]:
    """A service that has not asked its provider for anything yet."""
    async with running_app(trusting) as app:
        await app.state.redis.flushdb()
        yield app
