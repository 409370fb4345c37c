"""Operations on items, for routes, jobs and tests."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, func, insert, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.exc import StaleDataError

from app.items.models import Item, Part
from app.items.schemas import ItemCreate, ItemPatch, ItemRead, PartWrite
from app.platform.base.errors import Conflict, NotFound
from app.platform.data.database import ReadSession, on_commit
from app.platform.data.listing import Filter, Listing, ListQuery
from app.platform.observability.logs import get_logger

logger = get_logger(__name__)

# Built once, with parameters: a statement built for each request costs several times the CPU time.
# The parts come with their items: a list is one query, however long it is.
PART = func.json_build_object("name", Part.name, "quantity", Part.quantity)
PARTS = select(func.json_agg(aggregate_order_by(PART, Part.position))).where(
    Part.item_id == Item.id
)
COLUMNS = (Item.id, Item.name, Item.description, Item.created_at, Item.updated_at, Item.version)
ITEMS = select(
    *COLUMNS, func.coalesce(PARTS.scalar_subquery(), text("'[]'::json")).label("parts")
).where(Item.owner == bindparam("owner"))
ITEM = ITEMS.where(Item.id == bindparam("id"))
LISTING = Listing(
    ITEMS,
    key=Item.id,
    sorts={"created_at": Item.created_at, "name": Item.name},
    default="-created_at",
    filters={
        "name": Filter(Item.name),
        "created_from": Filter(Item.created_at, operator.ge),
        "created_before": Filter(Item.created_at, operator.lt),
    },
    always=[Item.version],
)
# Core, past the ORM's unit of work, which costs more than these statements.
NEW_ITEM = insert(Item.__table__).returning(*COLUMNS)  # type: ignore[arg-type]
NEW_PARTS = insert(Part.__table__)  # type: ignore[arg-type]
TOTAL = select(func.count()).select_from(Item)


async def create_item(session: AsyncSession, owner: str, data: ItemCreate) -> ItemRead:
    values = {"owner": owner, "version": 1, **data.model_dump(exclude={"parts"})}
    row = (await session.execute(NEW_ITEM, values)).one()
    if data.parts:
        parts = enumerate(data.parts)
        await session.execute(
            NEW_PARTS,
            [{"item_id": row.id, "position": n, **part.model_dump()} for n, part in parts],
        )
    return ItemRead.model_validate({**row._mapping, "parts": data.parts})


async def list_items(
    session: ReadSession, owner: str, query: ListQuery
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows of a page of items, and one more if there is a next page."""
    return await session.all(LISTING.select(query), owner=owner, **LISTING.values(query))


async def get_item(session: ReadSession, owner: str, item_id: UUID) -> ItemRead:
    """An item, read-only. Raises ``NotFound`` also if it belongs to someone else."""
    row = await session.first(ITEM, id=item_id, owner=owner)
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
    row = await session.first(TOTAL)
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
