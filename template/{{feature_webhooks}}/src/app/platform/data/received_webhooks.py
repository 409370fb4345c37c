"""The ids of received webhooks: a message that its sender repeats takes effect once.

The id is inserted by the transaction of its request, so that both commit or neither does: a message
whose request failed can be sent again. All times are from the database's clock.
"""

from datetime import datetime, timedelta
from hashlib import blake2b

from sqlalchemy import BigInteger, DateTime, Index, Text, bindparam, delete, func, select, text
from sqlalchemy import tuple_ as row
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.base.errors import Unavailable
from app.platform.data.database import Base


class ReceivedWebhook(Base):
    """One message that was received."""

    __tablename__ = "received_webhooks"
    __table_args__ = (Index("ix_received_webhooks_received_at", "received_at"),)

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class WebhookInProgress(Unavailable):
    """Another request with the same message has not ended; its sender is to try again."""

    code = "webhook_in_progress"

    def __init__(self) -> None:
        super().__init__("This message is being processed; send it again later.", retry_after=5)


# The lock ends with the transaction. A message that is repeated while the first request still runs
# does not wait for it, and so can't keep connections from others.
CLAIM = text(
    """
    WITH locked AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(:lock) AS free),
    added AS (
        INSERT INTO received_webhooks (source, id, received_at)
        SELECT :source, :id, now() FROM locked WHERE free
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT free, EXISTS (SELECT FROM added) AS is_new FROM locked
    """
).bindparams(
    bindparam("lock", type_=BigInteger), *(bindparam(name, type_=Text) for name in ("source", "id"))
)


async def claim(session: AsyncSession, source: str, message_id: str) -> bool:
    """Insert the id of a message; ``False`` if it was received before.

    Raises ``WebhookInProgress`` while another transaction has it.
    """
    digest = blake2b(f"{source}\n{message_id}".encode(), digest_size=8).digest()
    values = {"lock": int.from_bytes(digest, signed=True), "source": source, "id": message_id}
    found = (await session.execute(CLAIM, values)).one()
    if not found.free:
        raise WebhookInProgress
    return bool(found.is_new)


async def sweep(session: AsyncSession, retention: float, limit: int) -> int:
    """Delete up to ``limit`` ids that are older than ``retention`` seconds; return how many."""
    old = ReceivedWebhook.received_at < func.now() - timedelta(seconds=retention)
    key = row(ReceivedWebhook.source, ReceivedWebhook.id)
    chosen = select(ReceivedWebhook.source, ReceivedWebhook.id).where(old).limit(limit)
    statement = delete(ReceivedWebhook).where(key.in_(chosen.with_for_update(skip_locked=True)))
    return len((await session.execute(statement.returning(ReceivedWebhook.id))).all())
