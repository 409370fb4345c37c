"""Puts the service together. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from app import api
from app.platform.base import about, errors
from app.platform.http import routing
from app.parts import PARTS
from app.settings import Settings, get_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service from its parts; without ``settings``, from the environment's."""
    settings = settings or get_settings()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for resource in filter(None, installed):
                await stack.enter_async_context(resource())
            yield

    app = FastAPI(
        title=about.NAME,
        description=about.description(),
        version=about.release(),
        lifespan=lifespan,
        responses=errors.ALWAYS,
        docs_url=None,  # docs.py serves them, from local files
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # to an address that the caller's Host names, and without TLS
        telemetry={"tracing": False, "metrics": False, "logs": False},  # middleware.py does it
    )
    app.state.settings = settings
    installed = [part.install(app, settings) for part in PARTS]
    api.install(app)
    routing.index(app)
    return app
