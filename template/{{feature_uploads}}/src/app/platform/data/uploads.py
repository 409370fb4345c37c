"""The table of uploads, and every statement that uses it.

A row exists before its object, and until after it: whatever ends in between, the clean-up finds it.
All times are from the database's clock.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Index,
    LargeBinary,
    Text,
    bindparam,
    delete,
    event,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base

State = Literal["pending", "stored", "failed", "deleted"]


class Upload(Base):
    """A file of a record.

    ``record``: what it belongs to, such as ``orders:7``. ``received_at``: when the whole file had
    arrived; a pending one is then being scanned. ``reason``: why it has failed.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'stored', 'failed', 'deleted')", name="state"),
        Index("ix_uploads_record", "record"),
        Index("ix_uploads_changed_at", "changed_at", postgresql_where="state <> 'stored'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(Text)
    record: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    received_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def key(upload_id: UUID) -> str:
    """The key of an upload's object: nothing that a caller chose, and never used twice."""
    return upload_id.hex


COLUMNS = (
    Upload.id,
    Upload.name,
    Upload.state,
    Upload.media_type,
    Upload.size,
    Upload.sha256,
    Upload.reason,
    Upload.created_at,
    Upload.received_at,
)
OF_RECORD = (
    Upload.owner == bindparam("of_owner"),
    Upload.record == bindparam("of_record"),
    Upload.state != "deleted",
)
BY_RECORD = select(*COLUMNS).where(*OF_RECORD).order_by(Upload.created_at, Upload.id)
BY_ID = select(*COLUMNS).where(*OF_RECORD, Upload.id == bindparam("upload_id"))
COUNT = select(func.count()).select_from(Upload).where(*OF_RECORD, Upload.state != "failed")
RECEIVING = (Upload.state == "pending", Upload.received_at.is_(None))


async def add(
    session: AsyncSession, owner: str, record: str, name: str, maximum: int, **declared: Any
) -> UUID | None:
    """Add a pending upload; ``None`` if the record has ``maximum`` already.

    Two at once may exceed it, unless the record's row is locked.
    """
    count = await session.scalar(COUNT, {"of_owner": owner, "of_record": record})
    if (count or 0) >= maximum:
        return None
    upload = Upload(id=uuid4(), owner=owner, record=record, name=name, state="pending", **declared)
    session.add(upload)
    await session.flush()
    return upload.id


async def set_received(session: AsyncSession, upload_id: UUID, state: State, **values: Any) -> bool:
    """Record that the whole file has arrived; false if the upload was deleted or has failed."""
    values |= {"state": state, "received_at": func.now(), "changed_at": func.now()}
    return bool(await _change(session, values, Upload.id == upload_id, *RECEIVING))


async def set_scanned(session: AsyncSession, upload_id: UUID, reason: str | None) -> bool:
    """Record the result of a scan: stored, or failed for a ``reason``; false if it is too late."""
    values = {"state": "failed" if reason else "stored", "reason": reason}
    changed = {**values, "changed_at": func.now()}
    awaiting = (Upload.state == "pending", Upload.received_at.is_not(None))
    return bool(await _change(session, changed, Upload.id == upload_id, *awaiting))


async def unscanned(session: AsyncSession, seconds: float, limit: int) -> Sequence[UUID]:
    """Uploads that arrived more than ``seconds`` ago and are still to be scanned."""
    late = Upload.received_at < func.now() - timedelta(seconds=seconds)
    found = select(Upload.id).where(Upload.state == "pending", late).order_by(Upload.received_at)
    return (await session.scalars(found.limit(limit))).all()


async def set_failed(session: AsyncSession, upload_id: UUID, reason: str) -> bool:
    """Record that the file did not arrive, or was refused; false if it has arrived."""
    values = {"state": "failed", "reason": reason, "changed_at": func.now()}
    return bool(await _change(session, values, Upload.id == upload_id, *RECEIVING))


async def set_deleted(
    session: AsyncSession, owner: str, record: str, upload_id: UUID | None = None
) -> list[UUID]:
    """Mark one upload of a record, or all of them, as deleted; return which."""
    values = {"state": "deleted", "changed_at": func.now()}
    which = [Upload.owner == owner, Upload.record == record, Upload.state != "deleted"]
    if upload_id is not None:
        which.append(Upload.id == upload_id)
    return await _change(session, values, *which)


async def expire(session: AsyncSession, ttl: float, limit: int) -> int:
    """Mark uploads that never arrived, and those that have failed, as deleted, after ``ttl``."""
    stale = (
        select(Upload.id)
        .where(
            Upload.state.in_(("pending", "failed")),
            Upload.changed_at < func.now() - timedelta(seconds=ttl),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    values = {"state": "deleted", "changed_at": func.now()}
    return len(await _change(session, values, Upload.id.in_(stale)))


async def deleted(session: AsyncSession, limit: int) -> Sequence[UUID]:
    """Uploads whose object is to be deleted, the oldest first."""
    found = select(Upload.id).where(Upload.state == "deleted").order_by(Upload.changed_at)
    return (await session.scalars(found.limit(limit))).all()


async def purge(session: AsyncSession, ids: Sequence[UUID]) -> None:
    """Remove the rows of uploads whose objects are deleted."""
    await session.execute(delete(Upload).where(Upload.id.in_(ids), Upload.state == "deleted"))


async def unknown(session: AsyncSession, ids: Sequence[UUID]) -> set[UUID]:
    """Those of ``ids`` without a row; none if the table is empty: it may be the wrong database."""
    if not (await session.execute(select(Upload.id).limit(1))).first():
        return set()
    known = await session.scalars(select(Upload.id).where(Upload.id.in_(ids)))
    return set(ids) - set(known)


async def _change(session: AsyncSession, values: dict[str, Any], *which: Any) -> list[UUID]:
    statement = update(Upload).where(*which).values(values).returning(Upload.id)
    options = {"synchronize_session": False}
    return list((await session.execute(statement, execution_options=options)).scalars())


def delete_with(model: type[Base], record: Callable[[Any], str]) -> None:
    """Let uploads go with the row that they belong to, in the transaction that deletes it.

    ``record``: the record of an object of ``model``. It holds for ``session.delete()``; a DELETE
    statement needs one for the uploads, too.
    """

    @event.listens_for(model, "after_delete")
    def after_delete(_mapper: Any, connection: Any, target: Any) -> None:
        values = {"state": "deleted", "changed_at": func.now()}
        connection.execute(update(Upload).where(Upload.record == record(target)).values(values))
