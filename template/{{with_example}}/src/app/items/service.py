"""What can be done with items, whoever asks: a route, a job, a test."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import StaleDataError

from app.items.models import Item
from app.items.schemas import ItemCreate, ItemPatch, ItemRead
from app.platform.base.errors import Conflict, NotFound
from app.platform.data.database import ReadSession

# The order of the list: newest first, and the id where two are equally new.
Position = tuple[datetime, UUID]

COLUMNS = select(
    Item.id, Item.name, Item.description, Item.created_at, Item.updated_at, Item.version
)
ONE = COLUMNS.where(Item.id == bindparam("id"), Item.owner == bindparam("owner"))


async def create(session: AsyncSession, owner: str, data: ItemCreate) -> Item:
    item = Item(owner=owner, **data.model_dump())
    session.add(item)
    await session.flush()
    return item


async def read(reader: ReadSession, owner: str, item_id: UUID) -> ItemRead:
    row = await reader.first(ONE, id=item_id, owner=owner)
    if row is None:
        raise NotFound("There is no such item.")
    return ItemRead.model_validate(row)


async def newest(
    reader: ReadSession, owner: str, limit: int, after: Position | None = None
) -> Sequence[ItemRead]:
    """Return up to ``limit`` items, those after a position where one is given."""
    statement = COLUMNS.where(Item.owner == owner)
    if after:
        statement = statement.where(tuple_(Item.created_at, Item.id) < tuple_(*after))
    statement = statement.order_by(Item.created_at.desc(), Item.id.desc()).limit(limit)
    return [ItemRead.model_validate(row) for row in await reader.all(statement)]


async def own(session: AsyncSession, owner: str, item_id: UUID) -> Item:
    """Return the item to change it; raise ``NotFound`` when it is someone else's."""
    item = await session.get(Item, item_id)
    if item is None or item.owner != owner:
        raise NotFound("There is no such item.")
    return item


async def change(session: AsyncSession, item: Item, data: ItemPatch) -> Item:
    for name, value in data.model_dump(exclude_none=True).items():
        setattr(item, name, value)
    await _flush(session)
    return item


async def remove(session: AsyncSession, item: Item) -> None:
    await session.delete(item)
    await _flush(session)


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except StaleDataError:
        raise Conflict("Someone else changed the item at the same time; read it again.") from None
