"""Items as data of their owner: exported, and deleted with the account."""

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from app.items.models import Item
from app.items.schemas import ItemRead
from app.items.service import ITEMS
from app.platform.data.database import ReadSession


async def export_data(session: ReadSession, user_id: str) -> list[ItemRead]:
    rows = await session.all(ITEMS, owner=user_id)
    return [ItemRead.model_validate(row) for row in rows]


async def delete_data(session: AsyncSession, user_id: str) -> None:
    await session.execute(delete(Item).where(Item.owner == user_id))
