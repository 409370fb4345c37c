"""What open event streams cost.

uv run python benchmarks/event_streams.py [--connections 2000]
"""

import time
from collections.abc import AsyncIterator
from typing import Annotated

import connections
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

REQUEST = "GET /bench/stream HTTP/1.1\nHost: localhost\nAccept: text/event-stream\n\n"


class Tick(BaseModel):
    """A message with the time of its publication."""

    at: float
    end: str


class Publication(BaseModel):
    """What is published."""

    padding: str


def create_app() -> FastAPI:
    """The service, with a stream for everybody."""
    from app import main
    from app.platform.http import routing
    from app.platform.http.event_streams import EventStream, EventStreamsDep

    async def open_stream(request: Request, streams: EventStreamsDep) -> AsyncIterator[EventStream]:
        async with streams.open(request, "bench", caller="bench") as stream:
            yield stream

    router = APIRouter(prefix="/bench")

    @router.get("/stream", response_class=EventSourceResponse)
    async def watch(
        stream: Annotated[EventStream, Depends(open_stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in stream:
            yield event

    @router.post("/ticks", status_code=204)
    async def publish(publication: Publication, streams: EventStreamsDep) -> None:
        await streams.publish("bench", Tick(at=time.time(), end=publication.padding))

    app = main.create_app()
    app.include_router(router)
    routing.install_index(app)
    return app


if __name__ == "__main__":
    connections.main("event_streams:create_app()", REQUEST, "event_streams_ended_total")
