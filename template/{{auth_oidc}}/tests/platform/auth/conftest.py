"""A provider in this process, which tests can stop, delay or give new keys."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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
    """Wait until the condition holds, for a minute at most."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.01)


class Peer:
    """A provider that counts its requests; ``overrides`` replaces responses by path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.provider = Provider(f"http://127.0.0.1:{port}")
        self.app: ASGIApp = create_app(self.provider)
        self.requests: Counter[str] = Counter()
        self.overrides: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {}
        self.delay = 0.0  # seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests[scope["path"]] += 1
        await asyncio.sleep(self.delay)
        if response := self.overrides.get(scope["path"]):
            await response(receive, send)
        else:
            await self.app(scope, receive, send)

    def respond(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Respond to ``path`` with this from now on."""
        encoded = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]

        async def send_it(_: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": status, "headers": encoded})
            await send({"type": "http.response.body", "body": body})

        self.overrides[path] = send_it

    def token(self, **claims: Any) -> str:
        """An access token of Ada, with some claims changed."""
        return self.provider.sign(self.provider.claims("ada@example.com") | claims)

    def headers(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(**claims)}"}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Serve; afterwards, connections are refused."""
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
def peer() -> Iterator[Peer]:
    """A provider that is not up yet."""
    with socket.socket() as reserved:  # keeps the port from others while the provider is down
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield Peer(reserved.getsockname()[1])


@pytest.fixture
def trusting_settings(settings: Settings, peer: Peer) -> Settings:
    """Settings that trust this provider."""
    return settings.model_copy(update={"oidc_issuer": peer.provider.issuer})


@pytest.fixture
async def service(trusting_settings: Settings) -> AsyncIterator[FastAPI]:
    """A service that has not contacted its provider yet."""
    async with running_app(trusting_settings) as app:
        await app.state.redis.flushdb()
        yield app
