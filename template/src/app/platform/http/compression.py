"""Response compression with gzip, for clients that accept it."""

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from app.platform.settings import PlatformSettings

GZIP_MIN_SIZE = 1024  # bytes; smaller responses gain less than compression costs
GZIP_LEVEL = 4  # of 9; higher levels take longer and save little more


class Compression(GZipMiddleware):
    """Gzip middleware that other clients' requests bypass at no cost."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for name, value in scope.get("headers", ()):
            if name == b"accept-encoding" and b"gzip" in value:
                await super().__call__(scope, receive, send)
                return
        await self.app(scope, receive, send)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_middleware(Compression, minimum_size=GZIP_MIN_SIZE, compresslevel=GZIP_LEVEL)
