"""Many items at once: a batch of new ones, and a download of all."""

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.auth import CurrentUser
from app.items import service
from app.items.schemas import ItemCreate, ItemRead
from app.platform.base.errors import Unauthorized, Unavailable
from app.platform.data.database import SessionDep
from app.platform.http.batches import Batch, BatchRequest, run_batch
from app.platform.http.exports import EXPORT_RESPONSES, ExportFormat, ExportsDep
from app.platform.http.problems import responses

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))


@router.post("/batch", status_code=207)
async def create_items(
    batch: BatchRequest[ItemCreate], user: CurrentUser, session: SessionDep
) -> Batch[ItemRead]:
    """Create up to 500 items. Each result has the status of its item."""

    async def create(data: ItemCreate) -> ItemRead:
        return await service.create_item(session, user.id, data)

    return await run_batch(session, batch, create)


@router.get(
    "/download",
    response_class=StreamingResponse,
    responses=EXPORT_RESPONSES | responses(Unavailable),
)
async def download_items(
    user: CurrentUser, exports: ExportsDep, format: ExportFormat = ExportFormat.CSV
) -> StreamingResponse:
    """All your items, however many they are."""
    return await exports.send(service.ITEMS, format, name="items", owner=user.id)
