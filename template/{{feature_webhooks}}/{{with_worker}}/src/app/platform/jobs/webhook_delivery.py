"""Jobs that deliver webhooks, try again for three days, and delete what is old."""

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from cryptography.fernet import InvalidToken
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.components import Lifespan
from app.platform.data import received_webhooks, webhook_deliveries, webhook_subscriptions
from app.platform.data.public_addresses import Guard
from app.platform.data.webhook_deliveries import Outcome
from app.platform.data.webhook_sender import headers, send
from app.platform.data.webhook_subscriptions import (
    AnyRow,
    InvalidWebhookUrl,
    SecretCipher,
    check_url,
)
from app.platform.jobs import webhook_metrics
from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import job
from app.platform.jobs.webhook_commands import add_commands
from app.platform.jobs.webhook_metrics import DELIVERIES
from app.platform.observability import metrics
from app.platform.settings import PlatformSettings

__all__ = ["add_commands", "setup"]

# More than WEBHOOK_TIMEOUT may be, with the statements before and after; as much as the grace of a
# worker that stops.
TIMEOUT = 60
# Events and ids that one transaction deletes, deliveries that it enqueues, secrets that it renews.
BATCH_SIZE = 500
SWEEP_TIMEOUT = 30  # seconds; a worker that stops waits for its jobs, but not for minutes


@job(name="webhooks.deliver", timeout=TIMEOUT)
async def deliver(context: JobContext, delivery_id: UUID, attempt: int) -> str:
    """Make one attempt at a delivery, and enqueue the next one if it fails.

    Safe to run twice: both send the same message with the same id, and one is recorded.
    """
    due = await context.read_session.first(webhook_deliveries.select_due(delivery_id, attempt))
    if due is None:
        return "obsolete"
    if due.disabled_at is not None:
        async with context.transaction() as session:
            await webhook_deliveries.mark_dead(session, delivery_id)
        DELIVERIES.inc(outcome="dead")
        return "disabled"
    if due.pause and due.pause > 0:
        # Spread, so that one of them is first, and the others see what came of it.
        later = float(due.pause) * random.uniform(1, 2)  # noqa: S311 (no secret)
        async with context.transaction() as session:
            await webhook_deliveries.postpone(session, delivery_id, later)
            await _enqueue(context, session, delivery_id, attempt, later)
        return "paused"
    outcome = await _attempt(context.settings, due)
    async with context.transaction() as session:
        delay = await webhook_deliveries.record(session, context.settings, due, attempt, outcome)
        if delay is not None:
            await _enqueue(context, session, delivery_id, attempt + 1, delay)
    status = "delivered" if outcome.succeeded else "dead" if delay is None else "retried"
    DELIVERIES.inc(outcome=status)
    log = context.logger.info if outcome.succeeded else context.logger.warning
    log(
        "webhook delivered" if outcome.succeeded else "webhook not delivered",
        delivery=str(delivery_id),
        subscription=str(due.subscription_id),
        webhook_attempt=attempt + 1,
        status=outcome.status_code,
        error=outcome.error,
        duration_ms=round(outcome.duration * 1000, 1),
        retry_in=None if delay is None else round(delay),
    )
    return "delivered" if outcome.succeeded else "failed"


async def _attempt(settings: PlatformSettings, due: AnyRow) -> Outcome:
    try:
        # It was accepted, but perhaps under other settings, or by an earlier version.
        check_url(due.url, settings.webhook_allowed_networks)
    except InvalidWebhookUrl as invalid:
        error = f"the URL is no longer accepted: {invalid.detail}"
        return Outcome(datetime.now(UTC), 0, error=error)
    cipher = SecretCipher(settings)
    stored = [due.secret, *([due.previous_secret] if due.overlap else [])]
    try:
        secrets = [cipher.decrypt(secret) for secret in stored]
    except InvalidToken:
        raise RuntimeError(
            "The secret of the subscription was encrypted with a SECRET_KEY that is gone: add it to"
            " SECRET_KEY_FALLBACKS, or let its owner rotate the secret."
        ) from None
    signed = headers(f"msg_{due.event_id.hex}", due.payload, secrets)
    guard = Guard(settings.webhook_allowed_networks)
    return await send(guard, due.url, due.payload, signed, settings.webhook_timeout)


async def _enqueue(
    context: JobContext, session: AsyncSession, delivery_id: UUID, attempt: int, delay: float
) -> None:
    queue = context.queue_for(session)
    await queue.enqueue(deliver, delay=delay, delivery_id=delivery_id, attempt=attempt)


@job(name="webhooks.sweep", cron="19 * * * *", retries=0, timeout=SWEEP_TIMEOUT)
async def sweep(context: JobContext) -> int:
    """Enqueue deliveries whose job was lost and delete what is old, in batches; return how many.

    Encrypts secrets with the ``SECRET_KEY`` of today, too. Safe to run twice, and at once. The next
    run continues.
    """
    settings = context.settings
    async with context.transaction() as session:
        lost = await webhook_deliveries.overdue(session, BATCH_SIZE)
        for delivery_id, attempt in lost:
            await _enqueue(context, session, delivery_id, attempt, 0)
    total, end = len(lost), time.monotonic() + SWEEP_TIMEOUT / 3
    events = ids = BATCH_SIZE
    while BATCH_SIZE in (events, ids) and time.monotonic() < end:
        async with context.transaction() as session:
            events = await webhook_deliveries.sweep(
                session, settings.webhook_retention_days, BATCH_SIZE
            )
            ids = await received_webhooks.sweep(session, settings.webhook_id_retention, BATCH_SIZE)
        total += events + ids
    async with context.transaction() as session:
        await webhook_subscriptions.forget_replaced_secrets(session)
    after: UUID | None = UUID(int=0)
    end += SWEEP_TIMEOUT / 3
    while after is not None and time.monotonic() < end:
        async with context.transaction() as session:
            after = await webhook_subscriptions.renew_secrets(session, settings, after, BATCH_SIZE)
    return total


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    async def enqueue(session: AsyncSession, ids: Sequence[UUID]) -> None:
        queue = app.state.jobs.queue_for(session)
        for delivery_id in ids:
            await queue.enqueue(deliver, delivery_id=delivery_id, attempt=0)

    for name, collect in (
        ("webhook_deliveries", webhook_metrics.collect_deliveries),
        ("webhook_subscriptions", webhook_metrics.collect_subscriptions),
    ):
        metrics.register(app, name, partial(collect, app), ttl=webhook_metrics.TTL)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.enqueue_webhooks = enqueue
        yield

    return lifespan
