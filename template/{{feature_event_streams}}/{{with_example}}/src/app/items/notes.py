"""Notes on an item, sent to everybody who has its event stream open."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from app.auth import CurrentUser
from app.items import service
from app.platform.base.errors import NotFound, TooManyRequests, Unauthorized
from app.platform.data.database import ReadSessionDep
from app.platform.http.event_streams import EventStream, EventStreamsDep
from app.platform.http.problems import responses
from app.platform.http.schemas import RequestModel

router = APIRouter(
    prefix="/items/{item_id:uuid}", tags=["items"], responses=responses(Unauthorized)
)


class Note(RequestModel):
    """A note: sent to the open streams, and not stored."""

    text: str = Field(min_length=1, max_length=1000, examples=["Sold."])


def topic(item_id: UUID) -> str:
    return f"items:{item_id}"


async def open_stream(
    item_id: UUID,
    user: CurrentUser,
    session: ReadSessionDep,
    streams: EventStreamsDep,
    request: Request,
) -> AsyncIterator[EventStream]:
    """The stream of an item that the caller may read: authorization happens before it starts."""
    await service.get_item(session, user.id, item_id)
    async with streams.open(request, topic(item_id), caller=user.id) as stream:
        yield stream


@router.post("/notes", status_code=204, responses=responses(NotFound))
async def send_note(
    item_id: UUID, note: Note, user: CurrentUser, session: ReadSessionDep, streams: EventStreamsDep
) -> None:
    """Send a note to everybody who has the item's event stream open."""
    await service.get_item(session, user.id, item_id)
    await streams.publish(topic(item_id), note)


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses=responses(NotFound, TooManyRequests),
)
async def watch_item(
    stream: Annotated[EventStream, Depends(open_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """Events of an item, such as notes. Send `Last-Event-ID` to get those that you missed."""
    async for event in stream:
        yield event
