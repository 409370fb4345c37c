"""The tables of the webhooks that this service sends."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base

TIME = DateTime(timezone=True)


class WebhookSubscription(Base):
    """A URL of a caller, and the types of events that are sent to it."""

    __tablename__ = "webhook_subscriptions"
    __table_args__ = (Index("ix_webhook_subscriptions_owner_created_at", "owner", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[list[str]] = mapped_column(ARRAY(Text))
    # Encrypted with a key from SECRET_KEY.
    secret: Mapped[bytes]
    previous_secret: Mapped[bytes | None]
    previous_secret_ends_at: Mapped[datetime | None] = mapped_column(TIME)
    created_at: Mapped[datetime] = mapped_column(TIME)
    # Since the last delivery that succeeded.
    failures: Mapped[int]
    failing_since: Mapped[datetime | None] = mapped_column(TIME)
    paused_until: Mapped[datetime | None] = mapped_column(TIME)
    disabled_at: Mapped[datetime | None] = mapped_column(TIME)
    disabled_reason: Mapped[str | None] = mapped_column(Text)


class WebhookEvent(Base):
    """An event with its payload, as it is signed and sent."""

    __tablename__ = "webhook_events"
    __table_args__ = (Index("ix_webhook_events_created_at", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIME)


class WebhookDelivery(Base):
    """An event that is sent to one subscription."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'dead')", name="status"),
        UniqueConstraint("event_id", "subscription_id"),
        Index(
            "ix_webhook_deliveries_subscription_id_created_at_id",
            "subscription_id",
            "created_at",
            "id",
        ),
        Index(
            "ix_webhook_deliveries_next_attempt_at",
            "next_attempt_at",
            postgresql_where=text("status = 'pending'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(ForeignKey(WebhookEvent.id, ondelete="CASCADE"))
    subscription_id: Mapped[UUID] = mapped_column(
        ForeignKey(WebhookSubscription.id, ondelete="CASCADE")
    )
    status: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(TIME)
    next_attempt_at: Mapped[datetime | None] = mapped_column(TIME)
    finished_at: Mapped[datetime | None] = mapped_column(TIME)


class WebhookAttempt(Base):
    """One attempt at a delivery. ``duration``: seconds."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey(WebhookDelivery.id, ondelete="CASCADE"), primary_key=True
    )
    started_at: Mapped[datetime] = mapped_column(TIME, primary_key=True)
    duration: Mapped[float]
    status_code: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
