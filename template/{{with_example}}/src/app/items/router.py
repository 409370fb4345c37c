"""Routes of the items API: HTTP only, the rest is in ``service``."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from app.auth import CurrentUser, require, user_id
from app.items import service
from app.items.jobs import export_items
from app.items.schemas import ItemCreate, ItemPatch, ItemRead, PartialItem, Total
from app.platform.base.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PreconditionFailed,
    TooManyRequests,
    Unauthorized,
)
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.conditional import ConditionalRequestDep, digest
from app.platform.http.list_paging import ListPaging, list_paging
from app.platform.http.openapi import Tag
from app.platform.http.pagination import Page
from app.platform.http.problems import responses
from app.platform.http.rate_limit import limit
from app.platform.http.versioning import location
from app.platform.jobs import Jobs, JobStatus, status_headers

router = APIRouter(
    prefix="/items", tags=[Tag("items", "Items of the caller.")], responses=responses(Unauthorized)
)

ItemPaging = Annotated[ListPaging, Depends(list_paging("items", service.LISTING))]
PartialItemPaging = Annotated[
    ListPaging, Depends(list_paging("items", service.LISTING, fields=PartialItem))
]


@router.post("", status_code=201)
async def create_item(
    data: ItemCreate,
    user: CurrentUser,
    session: SessionDep,
    request: Request,
    response: Response,
) -> ItemRead:
    """Create an item."""
    item = await service.create_item(session, user.id, data)
    response.headers["Location"] = location(request, f"/items/{item.id}")
    response.headers["ETag"] = f'"{item.version}"'
    return item


@router.get("")
async def list_items(
    user: CurrentUser,
    session: ReadSessionDep,
    paging: ItemPaging,
    conditional: ConditionalRequestDep,
) -> Page[ItemRead]:
    """Your items, newest first unless `sort` says otherwise."""
    rows = await service.list_items(session, user.id, paging.query)
    page = paging.page(rows, ItemRead)
    conditional.check_not_modified(etag=_etag(rows, page.next))
    return page


@router.get("/partial")
async def list_partial_items(
    user: CurrentUser,
    session: ReadSessionDep,
    paging: PartialItemPaging,
    conditional: ConditionalRequestDep,
) -> Page[PartialItem]:
    """Your items with the chosen fields only, such as `fields=id,name`."""
    rows = await service.list_items(session, user.id, paging.query)
    page = paging.page(rows, PartialItem)
    conditional.check_not_modified(etag=_etag(rows, page.next))
    return page


def _etag(rows: Sequence[Any], cursor: str | None) -> str:
    return digest([(row.id, row.version) for row in rows], cursor)


@router.get("/total", responses=responses(Forbidden), dependencies=[require("admin")])
async def read_total(session: ReadSessionDep) -> Total:
    """Number of all items, whoever owns them."""
    return Total(items=await service.count_items(session))


@router.get("/{item_id:uuid}", responses=responses(NotFound))
async def get_item(
    item_id: UUID, user: CurrentUser, session: ReadSessionDep, conditional: ConditionalRequestDep
) -> ItemRead:
    """One of your items."""
    item = await service.get_item(session, user.id, item_id)
    conditional.check_not_modified(etag=str(item.version), modified=item.updated_at)
    return item


@router.patch("/{item_id:uuid}", responses=responses(NotFound, Conflict, PreconditionFailed))
async def update_item(
    item_id: UUID,
    data: ItemPatch,
    user: CurrentUser,
    session: SessionDep,
    conditional: ConditionalRequestDep,
    response: Response,
) -> ItemRead:
    """Update an item. With `If-Match`, only if it has not changed since you read it."""
    item = await service.get_owned_item(session, user.id, item_id)
    conditional.check_if_match(etag=str(item.version))
    await service.update_item(session, item, data)
    response.headers["ETag"] = f'"{item.version}"'
    return ItemRead.model_validate(item)


@router.delete(
    "/{item_id:uuid}", status_code=204, responses=responses(NotFound, PreconditionFailed)
)
async def delete_item(
    item_id: UUID, user: CurrentUser, session: SessionDep, conditional: ConditionalRequestDep
) -> None:
    """Delete an item. With `If-Match`, only if it has not changed since you read it."""
    item = await service.get_owned_item(session, user.id, item_id)
    conditional.check_if_match(etag=str(item.version))
    await service.delete_item(session, item)


@router.post(
    "/export",
    status_code=202,
    responses=responses(TooManyRequests),
    dependencies=[limit("items.export", "10/minute", by=user_id)],
)
async def start_export(
    user: CurrentUser, jobs: Jobs, request: Request, response: Response
) -> JobStatus:
    """Start an export of your newest 10,000 items, or return the one that is already running."""
    job = await jobs.enqueue(export_items, owner=user.id, unique=f"items.export:{user.id}")
    response.headers.update(status_headers(request, job))
    return job
