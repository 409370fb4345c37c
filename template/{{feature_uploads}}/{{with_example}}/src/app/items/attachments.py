"""Attachments of items: files that are streamed through the service, or sent to the storage."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import CurrentUser, user_id
from app.items import service
from app.items.models import Item
from app.platform.base.errors import (
    BadRequest,
    Conflict,
    NotFound,
    Unauthorized,
    UnsupportedMediaType,
)
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.data.uploads import delete_with
from app.platform.http.problems import responses
from app.platform.http.rate_limit import limit
from app.platform.http.upload_schemas import (
    UPLOAD_BODY,
    DownloadLink,
    FileName,
    UploadCreate,
    UploadLink,
    UploadRead,
)
from app.platform.http.uploads import UploadsDep
from app.platform.http.versioning import location

router = APIRouter(
    prefix="/items/{item_id:uuid}/attachments",
    tags=["items"],
    responses=responses(Unauthorized, NotFound),
)
LIMIT = limit("items.attachments", "60/minute", by=user_id)

delete_with(Item, lambda item: record(item.id))


def record(item_id: UUID) -> str:
    return f"items:{item_id}"


class Owned:
    """An item of the caller, whose attachments may be changed. Raises ``NotFound``."""

    def __init__(self, item_id: UUID, user: CurrentUser) -> None:
        self.item_id = item_id
        self.owner = user.id
        self.record = record(item_id)

    async def authorize(self, session: AsyncSession) -> None:
        """Lock the item until the transaction ends, so that it is not deleted meanwhile."""
        owned = select(Item.id).where(Item.id == self.item_id, Item.owner == self.owner)
        if not (await session.execute(owned.with_for_update())).first():
            raise NotFound("There is no such item.")


OwnedDep = Annotated[Owned, Depends()]


@router.post(
    "",
    status_code=201,
    responses=responses(BadRequest, Conflict, UnsupportedMediaType),
    dependencies=[LIMIT],
    openapi_extra=UPLOAD_BODY,
)
async def attach_file(
    item: OwnedDep,
    name: Annotated[FileName, Query()],
    uploads: UploadsDep,
    request: Request,
    response: Response,
) -> UploadRead:
    """Attach the file that is the body of the request to an item."""
    upload = await uploads.receive(
        request, owner=item.owner, record=item.record, name=name, authorize=item.authorize
    )
    path = f"/items/{item.item_id}/attachments/{upload.id}"
    response.headers["Location"] = location(request, path)
    return upload


@router.get("")
async def list_attachments(
    item: OwnedDep, session: ReadSessionDep, uploads: UploadsDep
) -> Sequence[UploadRead]:
    """The attachments of an item, and what has become of them."""
    await service.get_item(session, item.owner, item.item_id)
    return await uploads.of_record(session, owner=item.owner, record=item.record)


@router.get(
    "/{attachment_id:uuid}",
    response_class=Response,
    responses={
        **responses(Conflict),
        200: {"content": {"application/octet-stream": {}}, "description": "The file"},
        206: {"content": {"application/octet-stream": {}}, "description": "A range of the file"},
    },
)
async def read_attachment(
    attachment_id: UUID,
    item: OwnedDep,
    session: ReadSessionDep,
    uploads: UploadsDep,
    request: Request,
) -> Response:
    """An attachment, or a range of it."""
    upload = await uploads.get(session, attachment_id, owner=item.owner, record=item.record)
    return await uploads.send(request, upload)


@router.delete("/{attachment_id:uuid}", status_code=204)
async def delete_attachment(
    attachment_id: UUID, item: OwnedDep, session: SessionDep, uploads: UploadsDep
) -> None:
    """Delete an attachment."""
    await uploads.delete(session, owner=item.owner, record=item.record, upload_id=attachment_id)


@router.post("/links", status_code=201, responses=responses(Conflict), dependencies=[LIMIT])
async def create_attachment_link(
    data: UploadCreate, item: OwnedDep, uploads: UploadsDep
) -> UploadLink:
    """A link to send a file to the storage; it is attached once you report its completion."""
    return await uploads.create_link(
        data, owner=item.owner, record=item.record, authorize=item.authorize
    )


@router.post("/{attachment_id:uuid}/completion", responses=responses(Conflict))
async def complete_attachment(
    attachment_id: UUID, item: OwnedDep, uploads: UploadsDep
) -> UploadRead:
    """Attach a file that was sent to a link."""
    return await uploads.complete(
        attachment_id, owner=item.owner, record=item.record, authorize=item.authorize
    )


@router.get("/{attachment_id:uuid}/link", responses=responses(Conflict))
async def read_attachment_link(
    attachment_id: UUID, item: OwnedDep, session: ReadSessionDep, uploads: UploadsDep
) -> DownloadLink:
    """A link to read an attachment from the storage, without credentials."""
    upload = await uploads.get(session, attachment_id, owner=item.owner, record=item.record)
    return await uploads.download_link(upload)
