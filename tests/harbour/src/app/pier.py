"""Says which harbour an answer came from."""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings


class Pier:
    """Adds the header ``X-Harbour``."""

    def __init__(self, app: ASGIApp, harbour: str) -> None:
        self.app = app
        self.harbour = harbour

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Harbour"] = self.harbour
            await send(message)

        await self.app(scope, receive, send_named)


def setup(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Pier, harbour=settings.harbour)
