"""The audit log in Postgres: who changed what, written in the transaction of the change.

A trigger refuses changes of its rows, and their deletion before they are a year old.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Identity, Index, Row, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection

from app.platform.data.database import Base, on_commit
from app.platform.data.listing import Filter, Listing, ListQuery
from app.platform.http.rate_limit import client_ip
from app.platform.observability.logs import audit_logger


@dataclass(frozen=True, slots=True)
class Actor:
    """The actor of a change: a caller's id, or ``command:<name>``.

    ``client_ip``: from where, which only the log has: the table is kept for a year.
    """

    id: str
    client_ip: str | None = None


def actor_of(connection: HTTPConnection, caller_id: str) -> Actor:
    """The caller of a request as the actor of a change."""
    return Actor(caller_id, client_ip(connection))


class AuditEvent(Base):
    """A change: ``actor`` did ``action`` to ``subject``, the id of a caller."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_subject_id", "subject", "id"),
        {"info": {"outlives_account": "who changed what is kept for a year"}},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)


LISTING = Listing(
    select(
        AuditEvent.id,
        AuditEvent.at,
        AuditEvent.actor,
        AuditEvent.action,
        AuditEvent.subject,
        AuditEvent.details,
    ),
    key=AuditEvent.id,
    sorts={"id": AuditEvent.id},
    default="-id",
    filters={
        "actor": Filter(AuditEvent.actor),
        "action": Filter(AuditEvent.action),
        "subject": Filter(AuditEvent.subject),
        "at_from": Filter(AuditEvent.at, operator.ge),
        "at_before": Filter(AuditEvent.at, operator.lt),
        "id_before": Filter(AuditEvent.id, operator.lt),
    },
)


async def record(db: AsyncSession, actor: Actor, action: str, subject: str, **details: str) -> None:
    """Add an event, and log it as ``audit.<action>`` once the transaction has committed."""
    db.add(AuditEvent(actor=actor.id, action=action, subject=subject, details=details))
    await db.flush()
    fields = details if actor.client_ip is None else {**details, "client_ip": actor.client_ip}

    async def log() -> None:
        audit_logger.info(f"audit.{action}", actor=actor.id, subject=subject, **fields)

    on_commit(db, log)


async def list_events(
    db: AsyncSession, limit: int, subject: str | None = None, before: int | None = None
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Up to ``limit`` events, newest first: those of one subject, those with lower ids."""
    chosen = {"subject": subject, "id_before": before}
    filters = {name: value for name, value in chosen.items() if value is not None}
    query = ListQuery(limit, filters=filters)
    rows = await db.execute(LISTING.select(query), LISTING.values(query))
    return rows.all()[:limit]
