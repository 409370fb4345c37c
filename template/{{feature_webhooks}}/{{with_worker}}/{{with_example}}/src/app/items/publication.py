"""Publication of an item, an event for the webhooks of its owner."""

from uuid import UUID

from fastapi import APIRouter

from app.auth import CurrentUser
from app.items import service
from app.items.schemas import ItemRead
from app.platform.base.errors import NotFound, Unauthorized
from app.platform.data.database import SessionDep
from app.platform.http.problems import responses
from app.platform.http.webhook_events import WebhooksDep, webhook_event

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))

ITEM_PUBLISHED = webhook_event("item.published", ItemRead)


@router.post("/{item_id:uuid}/publication", status_code=202, responses=responses(NotFound))
async def publish_item(
    item_id: UUID, user: CurrentUser, session: SessionDep, webhooks: WebhooksDep
) -> None:
    """Publish an item: sends `item.published` to your webhooks."""
    item = await service.get_owned_item(session, user.id, item_id)
    await webhooks.publish(ITEM_PUBLISHED, ItemRead.model_validate(item), owner=user.id)
