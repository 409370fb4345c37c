"""Event streams (Server-Sent Events): events of a topic, sent to clients of every process.

A client that reconnects sends the id of the last event that it has received (``Last-Event-ID``, or
``?after=``) and gets those that it has missed, from any process. An event named ``gap`` tells it
that some may be gone, so that it has to read the current state again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import prometheus_client
from fastapi import Depends, FastAPI, Request
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.components import Lifespan
from app.platform.base.errors import TooManyRequests, Unavailable
from app.platform.data.database import on_commit
from app.platform.data.redis import REDIS_ERRORS
from app.platform.data.topics import Listener, Topics, format_id, parse_id
from app.platform.http.draining import is_draining, when_draining
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

# Milliseconds until a client reconnects: spread, so that the clients of a process that has ended
# do not all arrive at once.
RETRY = (1000, 5000)

logger = get_logger(__name__)

EventStream = AsyncIterator[ServerSentEvent]


class EventStreams:
    """Publishes events and opens streams of them."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self.topics = Topics(app.state.redis, settings)
        self.listeners: set[Listener] = set()
        self._callers: Counter[str] = Counter()
        registry = app.state.metrics.registry
        self._open = prometheus_client.Gauge(
            "event_streams", "Open event streams.", registry=registry, multiprocess_mode="livesum"
        )
        self._ended = prometheus_client.Counter(
            "event_streams_ended", "Event streams that have ended.", ["reason"], registry=registry
        )
        self._sent = prometheus_client.Counter(
            "event_stream_events", "Events sent on event streams.", registry=registry
        )

    async def publish(self, topic: str, event: BaseModel) -> None:
        """Send ``event`` to all streams of ``topic``; its name is that of its class.

        Raises an error of Redis while that is unavailable.
        """
        await self.topics.publish(topic, type(event).__name__, event.model_dump_json())

    def publish_on_commit(self, session: AsyncSession, topic: str, event: BaseModel) -> None:
        """Send ``event`` once the transaction of ``session`` has committed.

        It is lost if Redis is unavailable then; the log says so.
        """

        async def publish() -> None:
            try:
                await self.publish(topic, event)
            except REDIS_ERRORS as error:
                logger.error("event lost", topic=topic, error=type(error).__name__)

        on_commit(session, publish)

    @asynccontextmanager
    async def open(
        self, request: Request, topic: str, caller: object
    ) -> AsyncIterator[EventStream]:
        """The stream of a topic, for a dependency that has authorized ``caller``.

        Raises ``TooManyRequests`` if the caller has too many, and ``Unavailable`` while Redis is
        unavailable or the process shuts down.
        """
        key = str(caller)
        if self._callers[key] >= self._settings.event_streams_per_caller:
            raise TooManyRequests("You have too many event streams open; close one first.")
        if is_draining(self._app):
            raise Unavailable("The server is shutting down.")
        # A browser gives up after an error such as 503, and a new EventSource can set no header.
        seen = request.headers.get("Last-Event-ID") or request.query_params.get("after", "")
        after = parse_id(seen)
        self._callers[key] += 1
        self._open.inc()
        try:
            async with self.topics.listen(topic, after) as listener:
                self.listeners.add(listener)
                try:
                    yield self._stream(listener)
                finally:
                    self.listeners.discard(listener)
                    self._ended.labels(listener.ended or "client").inc()
        finally:
            self._open.dec()
            self._callers[key] -= 1
            if not self._callers[key]:
                del self._callers[key]

    async def _stream(self, listener: Listener) -> EventStream:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._settings.event_stream_max_age, listener.end, "age")
        try:
            yield _reconnect_in()
            async for event in listener.events():
                event_id = format_id(event.id) if event.id else None
                yield ServerSentEvent(raw_data=event.data, event=event.name, id=event_id)
                self._sent.inc()
            yield _reconnect_in()
        finally:
            timer.cancel()

    def end(self) -> None:
        """End all streams, since the process shuts down."""
        for listener in self.listeners:
            listener.end("shutdown")


def _reconnect_in() -> ServerSentEvent:
    return ServerSentEvent(retry=random.randint(*RETRY))  # noqa: S311 (not a secret)


async def _event_streams(request: Request) -> EventStreams:
    streams: EventStreams = request.app.state.event_streams
    return streams


EventStreamsDep = Annotated[EventStreams, Depends(_event_streams)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        streams = app.state.event_streams = EventStreams(app, settings)
        async with when_draining(app, streams.end), streams.topics.receiving():
            yield

    return lifespan
