"""Operations on items, for routes, jobs and tests."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import bindparam, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.exc import StaleDataError

from app.items.models import Item, Part
from app.items.schemas import ItemCreate, ItemPatch, ItemRead, PartWrite
from app.platform.base.errors import Conflict, NotFound
from app.platform.data.database import ReadSession, on_commit
from app.platform.observability.logs import get_logger

logger = get_logger(__name__)

# The sort key of the list: newest first, and by id where two items are equally new.
Position = tuple[datetime, UUID]

# Built at import: building it for each request adds about half to the CPU time of a read.
# The parts come with their items: a list is one query, however long it is.
PART = func.json_build_object("name", Part.name, "quantity", Part.quantity)
PARTS = select(func.json_agg(aggregate_order_by(PART, Part.position))).where(
    Part.item_id == Item.id
)
ITEMS = select(
    *(Item.id, Item.name, Item.description, Item.created_at, Item.updated_at, Item.version),
    func.coalesce(PARTS.scalar_subquery(), text("'[]'::json")).label("parts"),
)
ITEM_BY_ID = ITEMS.where(Item.id == bindparam("id"), Item.owner == bindparam("owner"))


async def create_item(session: AsyncSession, owner: str, data: ItemCreate) -> Item:
    item = Item(owner=owner, parts=_parts(data.parts), **data.model_dump(exclude={"parts"}))
    session.add(item)
    await session.flush()
    return item


async def list_items(
    session: ReadSession, owner: str, limit: int, after: Position | None = None
) -> Sequence[ItemRead]:
    """Up to ``limit`` items, newest first; with ``after``, those that follow that position."""
    statement = ITEMS.where(Item.owner == owner)
    if after:
        statement = statement.where(tuple_(Item.created_at, Item.id) < tuple_(*after))
    statement = statement.order_by(Item.created_at.desc(), Item.id.desc()).limit(limit)
    return [ItemRead.model_validate(row) for row in await session.all(statement)]


async def get_item(session: ReadSession, owner: str, item_id: UUID) -> ItemRead:
    """An item, read-only. Raises ``NotFound`` also if it belongs to someone else."""
    row = await session.first(ITEM_BY_ID, id=item_id, owner=owner)
    if row is None:
        raise NotFound("There is no such item.")
    return ItemRead.model_validate(row)


async def get_owned_item(session: AsyncSession, owner: str, item_id: UUID) -> Item:
    """An item to update or delete. Raises ``NotFound`` also if it belongs to someone else."""
    item = await session.get(Item, item_id, options=[selectinload(Item.parts)])
    if item is None or item.owner != owner:
        raise NotFound("There is no such item.")
    return item


async def update_item(session: AsyncSession, item: Item, data: ItemPatch) -> None:
    for name, value in data.model_dump(exclude_none=True, exclude={"parts"}).items():
        setattr(item, name, value)
    if data.parts is not None:
        item.parts = _parts(data.parts)
        item.updated_at = func.now()  # a new version of the item, even if only its parts change
    await _flush(session)


async def delete_item(session: AsyncSession, item: Item) -> None:
    await session.delete(item)
    await _flush(session)
    on_commit(session, partial(_log_deletion, item.id))


async def _log_deletion(item_id: UUID) -> None:
    logger.info("item deleted", item_id=str(item_id))


async def count_items(session: ReadSession) -> int:
    """Number of all items, whoever owns them."""
    row = await session.first(select(func.count()).select_from(Item))
    return row[0] if row else 0


def _parts(parts: Sequence[PartWrite]) -> list[Part]:
    return [
        Part(position=n, name=part.name, quantity=part.quantity) for n, part in enumerate(parts)
    ]


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except StaleDataError:
        raise Conflict("The item was changed at the same time; read it again.") from None
