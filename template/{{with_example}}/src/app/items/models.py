"""The tables of items and their parts."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import DateTime, ForeignKey, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.platform.data.database import Base


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (  # an index for each sort of the list
        Index("ix_items_owner_created_at_id", "owner", "created_at", "id"),
        Index("ix_items_owner_name_id", "owner", "name", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    # Optimistic locking: an UPDATE matches only the version that it read, so that of two concurrent
    # changes one fails.
    version: Mapped[int] = mapped_column()
    # Never loaded by itself: a statement that needs it says `selectinload(Item.parts)`.
    parts: Mapped[list["Part"]] = relationship(
        order_by="Part.position", cascade="all, delete-orphan", passive_deletes=True
    )

    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012


class Part(Base):
    __tablename__ = "item_parts"

    item_id: Mapped[UUID] = mapped_column(ForeignKey(Item.id, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int] = mapped_column()
