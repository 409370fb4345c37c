"""Subscriptions and events as data of their owner: exported, and deleted with the account."""

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.data.database import ReadSession
from app.platform.data.webhook_subscriptions import select_subscriptions
from app.platform.data.webhook_tables import WebhookEvent, WebhookSubscription


async def export_data(session: ReadSession, user_id: str) -> dict[str, list[Any]]:
    columns = (WebhookEvent.id, WebhookEvent.type, WebhookEvent.created_at, WebhookEvent.payload)
    events = select(*columns).where(WebhookEvent.owner == user_id)
    return {
        "subscriptions": [
            row._asdict() for row in await session.all(select_subscriptions(user_id))
        ],
        "events": [
            row._asdict() for row in await session.all(events.order_by(WebhookEvent.created_at))
        ],
    }


async def delete_data(session: AsyncSession, user_id: str) -> None:
    """Delete them with their deliveries: nothing more is sent."""
    await session.execute(delete(WebhookSubscription).where(WebhookSubscription.owner == user_id))
    await session.execute(delete(WebhookEvent).where(WebhookEvent.owner == user_id))
