"""Topics: events that every process receives in the same order, with a history to resume from.

The events of a topic are kept in a Redis Stream and announced to all processes by PUBLISH, both in
one script. A process has one connection for all its topics and subscribes only to those that
somebody listens to. When that connection breaks, it reads what it has missed from the streams.
A topic that is not ``kept`` has no stream: its listeners get ``GAP`` after an outage.
"""

import asyncio
import random
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from app.platform.base.errors import Unavailable
from app.platform.base.tasks import cancel
from app.platform.data.redis import REDIS_ERRORS, create_client
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

PREFIX = "events:"
NOT_KEPT = "passing:"  # the prefix of topics without a stream
CONTROL = "topics:"  # the prefix of each process's own channel, which says that its topics changed
PUBLISH = """
local entry = {'name', ARGV[1], 'data', ARGV[2]}
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', unpack(entry))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', KEYS[1], id .. '\\n' .. ARGV[1] .. '\\n' .. ARGV[2])
return id
"""
ID = re.compile(r"(\d{1,20})-(\d{1,20})")
# Seconds without a message until the connection is tested, and between attempts to reconnect.
PING_AFTER, MAX_BACKOFF = 5.0, 5.0

logger = get_logger(__name__)

Id = tuple[int, int]
START: Id = (0, 0)


class Event(NamedTuple):
    """An event of a topic. ``data``: JSON. ``id``: ``None`` unless it is kept.

    ``GAP`` stands for events that may be missing before it.
    """

    id: Id | None
    name: str
    data: str


GAP = Event(None, "gap", "{}")


def parse_id(text: str) -> Id | None:
    """The id of an event, as ``format_id`` writes it; ``None`` for any other text."""
    match = ID.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def channel(topic: str, kept: bool = True) -> str:
    """The channel of a topic in Redis, and the key of its stream."""
    return (PREFIX if kept else NOT_KEPT) + topic


def format_id(event_id: Id) -> str:
    return f"{event_id[0]}-{event_id[1]}"


class Listener:
    """Receives the events of one topic; at most ``buffer`` of them wait to be read.

    ``ended``: the reason why it receives no more: "slow" when the buffer was full, or yours.
    """

    def __init__(self, buffer: int) -> None:
        self.ended: str | None = None
        self.done = asyncio.Event()  # set when it has ended
        self._buffer = buffer
        self._history: deque[Event] = deque()  # read first
        self._waiting: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._seen = START

    def end(self, reason: str) -> None:
        """Receive no more events."""
        self.ended = self.ended or reason
        self.done.set()
        self._changed.set()

    def put(self, event: Event) -> None:
        """Add an event, or end the listener if too many are waiting."""
        if len(self._waiting) >= self._buffer:
            self.end("slow")
        else:
            self._waiting.append(event)
            self._changed.set()

    def begin_with(self, events: Iterable[Event]) -> None:
        """Read ``events`` first, and none of them again."""
        self._history.extend(events)
        self._changed.set()

    async def events(self) -> AsyncIterator[Event]:
        """The events, each once, until the listener has ended."""
        while self.ended is None:
            if not (waiting := self._history or self._waiting):
                self._changed.clear()
                await self._changed.wait()
                continue
            event = waiting.popleft()
            if event.id is None or event.id > self._seen:
                self._seen = event.id or self._seen
                yield event


class _Topic:
    """A topic that somebody in this process listens to."""

    def __init__(self, key: str, kept: bool) -> None:
        self.key = key
        self.kept = kept
        self.listeners: set[Listener] = set()
        self.last = START  # the last event that the listeners have received
        self.subscribed = asyncio.Event()
        self.connection: PubSub | None = None  # on which it was subscribed last
        self.opening: asyncio.Task[None] | None = None

    def deliver(self, event: Event) -> None:
        """Pass an event on to the listeners, unless they have received it already."""
        if event.id is None or event.id > self.last:
            self.last = event.id or self.last
            for listener in self.listeners:
                listener.put(event)


class Topics:
    """The topics of this process. ``redis``: publishes events and reads the streams."""

    def __init__(self, redis: Redis, settings: PlatformSettings) -> None:
        self._redis = redis
        self._settings = settings
        self._topics: dict[str, _Topic] = {}
        self._control = f"{CONTROL}{secrets.token_hex(8)}"

    async def publish(self, topic: str, name: str, data: str) -> Id:
        """Add an event to a topic, and send it to all listeners; ``data``: JSON."""
        settings = self._settings
        kept = (settings.topic_history, settings.topic_retention)
        run: Any = self._redis.eval  # typed differently by the versions of redis-py
        return _id(await run(PUBLISH, 1, channel(topic), name, data, *kept))

    async def pass_on(self, topic: str, name: str, data: str, *, kept: bool = False) -> None:
        """Send an event to all who listen now, and do not keep it, even if others are ``kept``."""
        await self._redis.publish(channel(topic, kept), f"\n{name}\n{data}")

    async def has_listeners(self, topic: str) -> bool:
        """Whether any process listens to ``topic``."""
        run: Any = self._redis.pubsub_numsub
        [(_, listeners)] = await run(PREFIX + topic)
        return int(listeners) > 0

    @asynccontextmanager
    async def listen(
        self, topic: str, after: Id | None = None, *, kept: bool = True
    ) -> AsyncIterator[Listener]:
        """A listener to new events of a topic, and to those ``after`` one that it has seen.

        ``kept``: whether the topic has a stream. ``GAP`` comes first if some of the latter may be
        gone. Raises ``Unavailable`` while Redis is unavailable.
        """
        listener = Listener(self._settings.topic_buffer)
        key = channel(topic, kept)
        opened = self._topics.setdefault(key, _Topic(key, kept))
        opened.listeners.add(listener)
        try:
            try:
                async with asyncio.timeout(self._settings.redis_timeout):
                    await self._open(opened)
                    if after is not None:
                        listener.begin_with(await self._events_after(opened.key, after))
            except REDIS_ERRORS as error:
                raise Unavailable("Events are not available.") from error
            yield listener
        finally:
            opened.listeners.discard(listener)
            await self._close(opened)

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Deliver events within the block; after an outage, also those missed in it."""
        task = asyncio.create_task(self._receive())
        try:
            yield
        finally:
            await cancel(task)

    async def _receive(self) -> None:
        outage = False
        while True:
            try:
                async with (
                    create_client(self._settings, retries=0) as client,
                    client.pubsub() as connection,
                ):
                    await connection.subscribe(self._control)
                    outage = False
                    await self._deliver_from(connection)
            except Exception as error:
                if not isinstance(error, REDIS_ERRORS):
                    logger.exception("events are not received")
                elif not outage:
                    logger.warning("events are not received", error=type(error).__name__)
                outage = True
            await asyncio.sleep(random.uniform(0, MAX_BACKOFF))  # noqa: S311 (not a secret)

    async def _deliver_from(self, connection: PubSub) -> None:
        """Deliver what arrives. Only this task uses the connection: redis-py reconnects in any."""
        pinged = False
        subscribed: dict[str, _Topic] = {}
        while True:
            message = await connection.get_message(timeout=PING_AFTER)
            if message is None:
                if pinged:
                    raise TimeoutError
                await connection.ping()
                pinged = True
                continue
            pinged = False
            topic = self._topics.get(message["channel"] or "")
            if message["channel"] == self._control:
                wanted = dict(self._topics)
                if opened := [key for key in wanted if wanted[key] is not subscribed.get(key)]:
                    await connection.subscribe(*opened)
                if closed := subscribed.keys() - wanted:
                    await connection.unsubscribe(*closed)
                subscribed = wanted
            elif topic and message["type"] == "subscribe":
                # Before any event that is sent to the subscription.
                for event in await self._missed(topic, connection):
                    topic.deliver(event)
                topic.connection = connection
                topic.subscribed.set()
            elif topic and message["type"] == "message":
                topic.deliver(_event(*message["data"].split("\n", 2)))

    async def _open(self, topic: _Topic) -> None:
        """Subscribe to ``topic``, once for all listeners."""
        if topic.opening is None or (topic.opening.done() and topic.opening.exception()):
            topic.opening = asyncio.create_task(self._subscribe(topic))
        await asyncio.shield(topic.opening)

    async def _subscribe(self, topic: _Topic) -> None:
        if topic.kept:
            newest: Any = await self._redis.xrevrange(topic.key, count=1)
            topic.last = _id(newest[0][0]) if newest else START
        await self._redis.publish(self._control, "")
        await topic.subscribed.wait()

    async def _close(self, topic: _Topic) -> None:
        """Unsubscribe from ``topic`` if nobody listens to it any more."""
        if topic.listeners or self._topics.get(topic.key) is not topic:
            return
        del self._topics[topic.key]
        if topic.opening:
            topic.opening.cancel()
        with suppress(*REDIS_ERRORS):  # the connection is replaced then
            await self._redis.publish(self._control, "")

    async def _missed(self, topic: _Topic, connection: PubSub) -> list[Event]:
        """The events since the last that the listeners have received."""
        if topic.kept:
            return await self._events_after(topic.key, topic.last)
        return [GAP] if topic.connection not in (None, connection) else []

    async def _events_after(self, key: str, seen: Id) -> list[Event]:
        """The events after one that has been seen; without it, others may be gone, too."""
        entries: Any = await self._redis.xrange(key, min=format_id(seen))
        events = [_event(entry_id, fields["name"], fields["data"]) for entry_id, fields in entries]
        if seen == START:
            return events
        return events[1:] if events and events[0].id == seen else [GAP, *events]


def _event(event_id: str, name: str, data: str) -> Event:
    return Event(_id(event_id) if event_id else None, name, data)


def _id(text: str) -> Id:
    event_id = parse_id(text)
    if event_id is None:
        raise ValueError(f"{text!r} is not the id of an event")
    return event_id
