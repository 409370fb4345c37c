"""Deliveries of webhooks: what is sent where, when again, and what came of it.

An event, its payload and its deliveries are rows of the transaction that publishes it: they exist
if and only if the change does. All times are from the database's clock.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.errors import NotFound
from app.platform.data.webhook_subscriptions import AnyRow, record_health
from app.platform.data.webhook_tables import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEvent,
    WebhookSubscription,
)
from app.platform.settings import PlatformSettings

# Seconds until each further attempt: three days in all, as Standard Webhooks recommends.
RETRY_DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.2  # each delay is longer or shorter by up to this share
MAX_RETRY_AFTER = 3600  # seconds; of what a subscriber asks for
PING = "webhook.ping"
# A pending delivery whose attempt is so late has lost its job.
OVERDUE = timedelta(hours=1)

# The subscriptions are those of the statement's snapshot.
PUBLISH = text(
    """
    WITH matching AS (
        SELECT id FROM webhook_subscriptions
        WHERE owner = :owner AND :type = ANY(event_types) AND disabled_at IS NULL
    ),
    event AS (
        INSERT INTO webhook_events (id, owner, type, payload, created_at)
        SELECT :id, :owner, :type, :payload, now() WHERE EXISTS (SELECT FROM matching)
        RETURNING id
    )
    INSERT INTO webhook_deliveries
        (id, event_id, subscription_id, status, attempts, created_at, next_attempt_at)
    SELECT gen_random_uuid(), event.id, matching.id, 'pending', 0, now(), now()
    FROM event, matching RETURNING id
    """
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt. ``status_code``: of the response, if there was one."""

    started_at: datetime
    duration: float
    status_code: int | None = None
    error: str | None = None
    retry_after: float = 0

    @property
    def succeeded(self) -> bool:
        return self.error is None


def payload(event_type: str, data: Any) -> str:
    """The body of a message, as Standard Webhooks describes it; ``data`` is JSON."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = {"type": event_type, "timestamp": at, "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


async def publish(session: AsyncSession, owner: str, event_type: str, data: Any) -> list[UUID]:
    """Store an event for each subscription of its owner to its type; the new deliveries' ids."""
    values = {"id": uuid4(), "owner": owner, "type": event_type}
    values |= {"payload": payload(event_type, data)}
    return list((await session.execute(PUBLISH, values)).scalars())


async def ping(session: AsyncSession, subscription: AnyRow) -> UUID:
    """Store a test event for one subscription, whatever its types are; its delivery's id."""
    event, delivery = uuid4(), uuid4()
    body = payload(PING, {"subscription": str(subscription.id)})
    session.add(
        WebhookEvent(
            id=event, owner=subscription.owner, type=PING, payload=body, created_at=func.now()
        )
    )
    await session.flush()
    session.add(
        WebhookDelivery(
            id=delivery,
            event_id=event,
            subscription_id=subscription.id,
            status="pending",
            attempts=0,
            created_at=func.now(),
            next_attempt_at=func.now(),
        )
    )
    await session.flush()
    return delivery


def select_due(delivery_id: UUID, attempt: int) -> Select[*tuple[Any, ...]]:
    """What an attempt needs; nothing if it was made already. ``pause``: seconds."""
    pause = func.extract("epoch", WebhookSubscription.paused_until - func.now())
    overlap = WebhookSubscription.previous_secret_ends_at > func.now()
    return (
        select(
            WebhookDelivery.id,
            WebhookDelivery.subscription_id,
            WebhookEvent.id.label("event_id"),
            WebhookEvent.type,
            WebhookEvent.payload,
            WebhookSubscription.owner,
            WebhookSubscription.url,
            WebhookSubscription.secret,
            WebhookSubscription.previous_secret,
            overlap.label("overlap"),
            pause.label("pause"),
            WebhookSubscription.disabled_at,
        )
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .join(WebhookSubscription, WebhookSubscription.id == WebhookDelivery.subscription_id)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.status == "pending",
            WebhookDelivery.attempts == attempt,
        )
    )


async def postpone(session: AsyncSession, delivery_id: UUID, delay: float) -> None:
    """Note when the next attempt is due."""
    later = func.now() + timedelta(seconds=delay)
    statement = update(WebhookDelivery).where(WebhookDelivery.id == delivery_id)
    await session.execute(statement.values(next_attempt_at=later))


async def record(
    session: AsyncSession, settings: PlatformSettings, due: AnyRow, attempt: int, outcome: Outcome
) -> float | None:
    """Store what came of an attempt; return the seconds until the next one, if there is one."""
    delay = None if outcome.succeeded else retry_delay(attempt, outcome.retry_after)
    gone = outcome.status_code == HTTPStatus.GONE
    if gone:
        delay = None
    status = "delivered" if outcome.succeeded else "dead" if delay is None else "pending"
    values: dict[str, Any] = {"status": status, "attempts": attempt + 1, "finished_at": None}
    if delay is None:
        values |= {"finished_at": func.now(), "next_attempt_at": None}
    else:
        values |= {"next_attempt_at": func.now() + timedelta(seconds=delay)}
    held = (WebhookDelivery.attempts == attempt) & (WebhookDelivery.status == "pending")
    statement = update(WebhookDelivery).where(WebhookDelivery.id == due.id, held)
    recorded = await session.execute(statement.values(values).returning(WebhookDelivery.id))
    if not recorded.first():  # deleted, or made by another worker at the same time
        return None
    log = insert(WebhookAttempt).values(
        delivery_id=due.id,
        started_at=outcome.started_at,
        duration=outcome.duration,
        status_code=outcome.status_code,
        error=outcome.error,
    )
    await session.execute(log.on_conflict_do_nothing())
    await record_health(session, settings, due, succeeded=outcome.succeeded, gone=gone)
    return delay


def retry_delay(attempt: int, retry_after: float = 0) -> float | None:
    """Seconds until the attempt after ``attempt``, which counts from 0; ``None`` after the last."""
    if attempt >= len(RETRY_DELAYS):
        return None
    delay = RETRY_DELAYS[attempt] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (no secret)
    return max(delay, min(retry_after, MAX_RETRY_AFTER))


async def mark_dead(session: AsyncSession, delivery_id: UUID) -> None:
    """Mark a delivery as dead, since its subscription is disabled."""
    statement = update(WebhookDelivery).where(WebhookDelivery.id == delivery_id)
    await session.execute(
        statement.values(status="dead", finished_at=func.now(), next_attempt_at=None)
    )


def select_deliveries(
    owner: str | None = None, subscription_id: UUID | None = None, status: str | None = None
) -> Select[*tuple[Any, ...]]:
    """Deliveries, newest first, with the response to their last attempt."""
    last = (
        select(WebhookAttempt.status_code, WebhookAttempt.error)
        .where(WebhookAttempt.delivery_id == WebhookDelivery.id)
        .order_by(WebhookAttempt.started_at.desc())
        .limit(1)
        .lateral()
    )
    statement = (
        select(
            WebhookDelivery.id,
            WebhookDelivery.event_id,
            WebhookDelivery.subscription_id,
            WebhookEvent.type,
            WebhookDelivery.status,
            WebhookDelivery.attempts,
            WebhookDelivery.created_at,
            WebhookDelivery.next_attempt_at,
            WebhookDelivery.finished_at,
            last.c.status_code,
            last.c.error,
        )
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .outerjoin(last, text("true"))
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    )
    if owner is not None:  # the owner of the events; their table has no index of it
        owned = select(WebhookSubscription.id).where(WebhookSubscription.owner == owner)
        statement = statement.where(WebhookDelivery.subscription_id.in_(owned))
    if subscription_id is not None:
        statement = statement.where(WebhookDelivery.subscription_id == subscription_id)
    return statement if status is None else statement.where(WebhookDelivery.status == status)


def select_attempts(owner: str | None, delivery_id: UUID) -> Select[*tuple[Any, ...]]:
    """The log of a delivery, oldest first."""
    statement = (
        select(
            WebhookAttempt.started_at,
            WebhookAttempt.duration,
            WebhookAttempt.status_code,
            WebhookAttempt.error,
        )
        .join(WebhookDelivery, WebhookDelivery.id == WebhookAttempt.delivery_id)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .where(WebhookDelivery.id == delivery_id)
        .order_by(WebhookAttempt.started_at)
    )
    return statement if owner is None else statement.where(WebhookEvent.owner == owner)


async def replay(
    session: AsyncSession, owner: str | None = None, delivery_id: UUID | None = None
) -> Sequence[UUID]:
    """Make dead deliveries pending, one or all of ``owner``, with all attempts; return their ids.

    Raises ``NotFound`` if there is no such one.
    """
    dead = update(WebhookDelivery).where(
        WebhookDelivery.status == "dead", WebhookEvent.id == WebhookDelivery.event_id
    )
    if owner is not None:
        dead = dead.where(WebhookEvent.owner == owner)
    if delivery_id is not None:
        dead = dead.where(WebhookDelivery.id == delivery_id)
    again = {"status": "pending", "attempts": 0, "finished_at": None}
    statement = dead.values(next_attempt_at=func.now(), **again).returning(WebhookDelivery.id)
    ids = list((await session.execute(statement)).scalars())
    if delivery_id is not None and not ids:
        raise NotFound("There is no such dead delivery.")
    return ids


def select_lateness() -> Select[*tuple[Any, ...]]:
    """Seconds since the pending delivery that has waited longest was due; ``None`` without one."""
    late = func.extract("epoch", func.now() - func.min(WebhookDelivery.next_attempt_at))
    return select(late.label("seconds")).where(WebhookDelivery.status == "pending")


async def overdue(session: AsyncSession, limit: int) -> list[tuple[UUID, int]]:
    """Pending deliveries whose job was lost, with the number of the attempt that is due."""
    late = WebhookDelivery.next_attempt_at < func.now() - OVERDUE
    chosen = select(WebhookDelivery.id).where(WebhookDelivery.status == "pending", late)
    ids = chosen.limit(limit).with_for_update(skip_locked=True)
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(ids.scalar_subquery()))
        .values(next_attempt_at=func.now())
        .returning(WebhookDelivery.id, WebhookDelivery.attempts)
    )
    return [(row.id, row.attempts) for row in await session.execute(statement)]


async def sweep(session: AsyncSession, retention_days: float, limit: int) -> int:
    """Delete up to ``limit`` old events without pending deliveries, and all of theirs."""
    old = WebhookEvent.created_at < func.now() - timedelta(days=retention_days)
    pending = select(WebhookDelivery.id).where(
        WebhookDelivery.event_id == WebhookEvent.id, WebhookDelivery.status == "pending"
    )
    chosen = select(WebhookEvent.id).where(old, ~pending.exists()).limit(limit)
    ids = chosen.with_for_update(skip_locked=True).scalar_subquery()
    deleted = delete(WebhookEvent).where(WebhookEvent.id.in_(ids)).returning(WebhookEvent.id)
    return len((await session.execute(deleted)).all())
