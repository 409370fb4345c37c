"""The routes: what HTTP needs, and no more."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from app.auth import CurrentUser
from app.items import service
from app.items.jobs import export_items
from app.items.schemas import ItemCreate, ItemPatch, ItemRead
from app.platform.base.errors import Conflict, NotFound, PreconditionFailed, Unauthorized
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.conditional import PRIVATE, ConditionalRequestDep
from app.platform.http.pagination import Page, Paging, paging
from app.platform.http.problems import responses
from app.platform.jobs import Jobs, JobStatus

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))

ItemPaging = Annotated[Paging[service.Position], Depends(paging("items", service.Position))]


def position(item: ItemRead) -> tuple[datetime, UUID]:
    return item.created_at, item.id


@router.post("", status_code=201)
async def create(
    data: ItemCreate, user: CurrentUser, session: SessionDep, response: Response
) -> ItemRead:
    item = await service.create(session, user.id, data)
    response.headers["Location"] = f"/api/v1/items/{item.id}"
    response.headers["ETag"] = f'"{item.version}"'
    return ItemRead.model_validate(item)


@router.get("")
async def browse(
    user: CurrentUser, reads: ReadSessionDep, paging: ItemPaging, response: Response
) -> Page[ItemRead]:
    """List your items, newest first."""
    response.headers["Cache-Control"] = PRIVATE
    rows = await service.newest(reads, user.id, paging.limit + 1, paging.after)
    return paging.page(rows, position)


@router.get("/{item_id:uuid}", responses=responses(NotFound))
async def read(
    item_id: UUID, user: CurrentUser, reads: ReadSessionDep, conditional: ConditionalRequestDep
) -> ItemRead:
    item = await service.read(reads, user.id, item_id)
    conditional.check_not_modified(etag=str(item.version), modified=item.updated_at)
    return item


@router.patch("/{item_id:uuid}", responses=responses(NotFound, Conflict, PreconditionFailed))
async def change(
    item_id: UUID,
    data: ItemPatch,
    user: CurrentUser,
    session: SessionDep,
    conditional: ConditionalRequestDep,
    response: Response,
) -> ItemRead:
    """Change an item; with `If-Match`, only if it is still the one that you read."""
    item = await service.own(session, user.id, item_id)
    conditional.check_if_match(etag=str(item.version))
    await service.change(session, item, data)
    response.headers["ETag"] = f'"{item.version}"'
    return ItemRead.model_validate(item)


@router.delete(
    "/{item_id:uuid}", status_code=204, responses=responses(NotFound, PreconditionFailed)
)
async def remove(
    item_id: UUID, user: CurrentUser, session: SessionDep, conditional: ConditionalRequestDep
) -> None:
    item = await service.own(session, user.id, item_id)
    conditional.check_if_match(etag=str(item.version))
    await service.remove(session, item)


@router.post("/export", status_code=202)
async def export(user: CurrentUser, jobs: Jobs, response: Response) -> JobStatus:
    """Start an export of all your items; while one runs, that one is answered."""
    job = await jobs.enqueue(export_items, owner=user.id, unique=f"items.export:{user.id}")
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job
