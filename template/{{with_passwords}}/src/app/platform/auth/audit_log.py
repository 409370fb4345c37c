"""The audit log in Postgres: who changed which user, written in the transaction of the change.

A trigger refuses changes of its rows, and their deletion before they are a year old.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Identity, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base, on_commit
from app.platform.observability.logs import audit_logger


class AuditEvent(Base):
    """A change: ``actor`` did ``action`` to ``subject``, the id of a user."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)


async def record(db: AsyncSession, actor: str, action: str, subject: str, **details: str) -> None:
    """Add an event, and log it as ``audit.<action>`` once the transaction has committed."""
    db.add(AuditEvent(actor=actor, action=action, subject=subject, details=details))
    await db.flush()

    async def log() -> None:
        audit_logger.info(f"audit.{action}", actor=actor, subject=subject, **details)

    on_commit(db, log)


async def newest(
    db: AsyncSession, limit: int, subject: str | None = None, before: int | None = None
) -> Sequence[AuditEvent]:
    """Up to ``limit`` events, newest first: those of one subject, those with lower ids."""
    statement = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if subject is not None:
        statement = statement.where(AuditEvent.subject == subject)
    if before is not None:
        statement = statement.where(AuditEvent.id < before)
    return (await db.scalars(statement)).all()
