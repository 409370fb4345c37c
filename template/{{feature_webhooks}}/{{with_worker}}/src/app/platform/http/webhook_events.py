"""Events that callers can subscribe to: published in the transaction of the request.

ITEM_SOLD = webhook_event("item.sold", ItemRead)

await webhooks.publish(ITEM_SOLD, item, owner=user.id)
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.platform.data import webhook_deliveries
from app.platform.data.database import SessionDep
from app.platform.data.webhook_subscriptions import UnknownEventType

# As https://www.standardwebhooks.com recommends.
EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")

T = TypeVar("T")
Enqueue = Callable[[AsyncSession, Sequence[UUID]], Awaitable[None]]


class WebhookEventType(Generic[T]):
    """A type of events, and the type of their data."""

    def __init__(self, name: str, data: type[T]) -> None:
        self.name = name
        self._data = TypeAdapter(data)

    def dump(self, data: T) -> Any:
        """``data`` as JSON."""
        return self._data.dump_python(data, mode="json")


_types: dict[str, WebhookEventType[Any]] = {}


def webhook_event(name: str, data: type[T]) -> WebhookEventType[T]:
    """Declare a type of events, at module level; subscriptions name it, such as ``item.sold``."""
    if not EVENT_TYPE.fullmatch(name) or name == webhook_deliveries.PING:
        raise ValueError(f"{name!r} is not a type of events; write it as item.sold")
    _types[name] = new = WebhookEventType(name, data)
    return new


def event_types() -> list[str]:
    """The names of all declared types."""
    return sorted(_types)


def check_event_types(names: Sequence[str]) -> None:
    """Raise ``UnknownEventType`` unless all of them are declared."""
    if unknown := sorted(set(names) - set(_types)):
        known = ", ".join(event_types()) or "none"
        raise UnknownEventType(f"There is no event {unknown[0]}; there are: {known}.")


class Webhooks:
    """Publishes events in one transaction."""

    def __init__(self, session: AsyncSession, enqueue: Enqueue) -> None:
        self._session = session
        self._enqueue = enqueue

    async def publish(self, event: WebhookEventType[T], data: T, *, owner: str) -> None:
        """Send ``data`` to the subscriptions of ``owner``, once the transaction has committed.

        Each delivery has the id of the event, so that its receiver knows a repeated one.
        """
        ids = await webhook_deliveries.publish(self._session, owner, event.name, event.dump(data))
        await self._enqueue(self._session, ids)


async def _webhooks(connection: HTTPConnection, session: SessionDep) -> Webhooks:
    return Webhooks(session, connection.app.state.enqueue_webhooks)


WebhooksDep = Annotated[Webhooks, Depends(_webhooks)]
