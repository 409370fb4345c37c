"""Uploads as data of their owner: listed, and deleted with the account."""

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.data.database import ReadSession
from app.platform.data.uploads import Upload


async def export_data(session: ReadSession, user_id: str) -> list[Any]:
    """What is known of each file; the files themselves are downloaded by their routes."""
    columns = (Upload.id, Upload.record, Upload.name, Upload.media_type, Upload.size)
    mine = select(*columns, Upload.created_at).where(
        Upload.owner == user_id, Upload.state != "deleted"
    )
    return [row._asdict() for row in await session.all(mine.order_by(Upload.created_at))]


async def delete_data(session: AsyncSession, user_id: str) -> None:
    """Leave the files to the clean-up, which deletes objects and then rows."""
    mine = update(Upload).where(Upload.owner == user_id, Upload.state != "deleted")
    await session.execute(mine.values(state="deleted", changed_at=func.now()))
