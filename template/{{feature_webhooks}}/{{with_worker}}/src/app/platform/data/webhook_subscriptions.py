"""Subscriptions to webhooks: what their owners may do with them, and their secrets."""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Row, Select, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.errors import BadRequest, Conflict, NotFound
from app.platform.base.signing import derive_keys
from app.platform.data.public_addresses import Guard
from app.platform.data.webhook_tables import WebhookSubscription
from app.platform.observability.logs import audit_logger
from app.platform.settings import PlatformSettings

T = TypeVar("T")
AnyRow = Row[*tuple[Any, ...]]

SECRET_BYTES = 32
MAX_URL_LENGTH = 2000
UNPRIVILEGED = 1024  # ports below are those of mail, SSH and databases of old, but for HTTP
# After so many failures in a row, a subscriber gets one attempt at a time: those that hang would
# otherwise take the workers from all others.
PAUSE_FROM = 3
PAUSE, MAX_PAUSE = 10, 600  # seconds; doubles with each further failure
READABLE: tuple[Any, ...] = (
    WebhookSubscription.id,
    WebhookSubscription.owner,
    WebhookSubscription.url,
    WebhookSubscription.event_types,
    WebhookSubscription.created_at,
    WebhookSubscription.failing_since,
    WebhookSubscription.disabled_at,
    WebhookSubscription.disabled_reason,
)


class InvalidWebhookUrl(BadRequest):
    """The URL can't be delivered to."""

    code = "webhook_url_invalid"


class UnknownEventType(BadRequest):
    """This service has no such events."""

    code = "webhook_event_type_unknown"


class SecretCipher:
    """Encrypts the secrets of subscriptions with a key from ``SECRET_KEY``, or its fallbacks."""

    def __init__(self, settings: PlatformSettings) -> None:
        keys = derive_keys(settings, "webhook_subscriptions.secret")
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in keys])
        self._newest = Fernet(base64.urlsafe_b64encode(keys[0]))

    def new(self) -> tuple[str, bytes]:
        """A new secret, as its owner gets it and as it is stored."""
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"
        return secret, self._fernet.encrypt(secret.encode())

    def decrypt(self, stored: bytes) -> str:
        """A stored secret; raises ``InvalidToken`` if its ``SECRET_KEY`` is gone."""
        return self._fernet.decrypt(stored).decode()

    def is_current(self, stored: bytes) -> bool:
        """Whether a secret is encrypted with the key of today."""
        try:
            self._newest.decrypt(stored)
        except InvalidToken:
            return False
        return True

    def renew(self, stored: bytes) -> bytes:
        """A stored secret, encrypted with the key of today; as it is if its key is gone."""
        try:
            return self._fernet.rotate(stored)
        except InvalidToken:
            return stored


def check_url(url: str, allowed_networks: Sequence[str]) -> str:
    """A URL that can be delivered to; raises ``InvalidWebhookUrl``.

    What its host resolves to is checked at each delivery, since that can change.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidWebhookUrl("The URL is not valid.") from None
    schemes = ("https", "http") if allowed_networks else ("https",)
    if parts.scheme not in schemes or not host or not url.isascii() or len(url) > MAX_URL_LENGTH:
        raise InvalidWebhookUrl("Write the URL in ASCII, as https://example.com/webhooks.")
    if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
        raise InvalidWebhookUrl("The URL has credentials, a fragment or spaces.")
    if port is not None and port not in (80, 443) and port < UNPRIVILEGED:
        raise InvalidWebhookUrl("The port is neither 80 nor 443 nor above 1023.")
    try:
        address = ip_address(host)
    except ValueError:
        try:
            host.encode("idna")  # as the resolver does
        except UnicodeError:
            raise InvalidWebhookUrl("The host has an empty label, or a too long one.") from None
        return url
    if not Guard(allowed_networks).allows(address):
        raise InvalidWebhookUrl("The address is not public.")
    return url


async def create(
    session: AsyncSession,
    settings: PlatformSettings,
    owner: str,
    url: str,
    event_types: Sequence[str],
) -> tuple[AnyRow, str]:
    """The new subscription and its secret, which is not shown again."""
    check_url(url, settings.webhook_allowed_networks)
    # Two requests at once can't both be the last that is allowed.
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 0))")
    await session.execute(lock, {"owner": f"webhook_subscriptions:{owner}"})
    count = select(func.count()).where(WebhookSubscription.owner == owner)
    if (await session.execute(count)).scalar_one() >= settings.webhook_subscriptions_per_caller:
        limit = settings.webhook_subscriptions_per_caller
        raise Conflict(f"There are {limit} subscriptions already; delete one.")
    secret, stored = SecretCipher(settings).new()
    subscription = WebhookSubscription(
        id=uuid4(),
        owner=owner,
        url=url,
        event_types=sorted(set(event_types)),
        secret=stored,
        created_at=func.now(),
        failures=0,
    )
    session.add(subscription)
    await session.flush()
    return await get(session, owner, subscription.id), secret


def select_subscriptions(owner: str | None = None) -> Any:
    """Subscriptions of an owner, or of all, oldest first."""
    statement = select(*READABLE).order_by(WebhookSubscription.created_at, WebhookSubscription.id)
    return statement if owner is None else statement.where(WebhookSubscription.owner == owner)


def _one(owner: str | None, subscription_id: UUID) -> Any:
    mine = WebhookSubscription.id == subscription_id
    return mine if owner is None else mine & (WebhookSubscription.owner == owner)


async def get(session: AsyncSession, owner: str | None, subscription_id: UUID) -> AnyRow:
    """A subscription of ``owner``; of anybody, if that is ``None``. Raises ``NotFound``."""
    found = await session.execute(select(*READABLE).where(_one(owner, subscription_id)))
    return _found(found.first())


async def remove(session: AsyncSession, owner: str | None, subscription_id: UUID) -> None:
    """Delete a subscription, with its deliveries. Raises ``NotFound``."""
    statement = delete(WebhookSubscription).where(_one(owner, subscription_id))
    _found((await session.execute(statement.returning(WebhookSubscription.id))).first())


async def enable(session: AsyncSession, owner: str | None, subscription_id: UUID) -> AnyRow:
    """Enable a subscription that was disabled. Raises ``NotFound``."""
    values = {"failing_since": None, "paused_until": None, "disabled_reason": None, "failures": 0}
    statement = (
        update(WebhookSubscription)
        .where(_one(owner, subscription_id))
        .values(disabled_at=None, **values)
        .returning(*READABLE)
    )
    return _found((await session.execute(statement)).first())


async def record_health(
    session: AsyncSession, settings: PlatformSettings, due: AnyRow, *, succeeded: bool, gone: bool
) -> None:
    """Record whether an attempt has succeeded: pause a subscription that fails, or disable it.

    ``gone``: the subscriber has answered 410.
    """
    subscription = update(WebhookSubscription).where(WebhookSubscription.id == due.subscription_id)
    if succeeded:
        healthy = {"failures": 0, "failing_since": None, "paused_until": None}
        await session.execute(subscription.where(WebhookSubscription.failures > 0).values(healthy))
        return
    failing = {
        "failures": WebhookSubscription.failures + 1,
        "failing_since": func.coalesce(WebhookSubscription.failing_since, func.now()),
    }
    days = settings.webhook_disable_after_days
    is_old = WebhookSubscription.failing_since < func.now() - timedelta(days=days)
    statement = subscription.values(failing)
    returned = statement.returning(is_old.label("is_old"), WebhookSubscription.failures)
    row = (await session.execute(returned)).first()
    if row and row.failures >= PAUSE_FROM:
        seconds = min(MAX_PAUSE, PAUSE * 2 ** min(row.failures - PAUSE_FROM, 10))
        until = func.now() + timedelta(seconds=seconds)
        await session.execute(subscription.values(paused_until=until))
    if gone:
        await disable(session, due, "410 Gone")
    elif row and row.is_old:
        await disable(session, due, f"no delivery has succeeded for {days:g} days")


async def disable(session: AsyncSession, subscription: AnyRow, reason: str) -> None:
    """Send nothing more to a subscription, and say so in the audit log."""
    statement = (
        update(WebhookSubscription)
        .where(
            WebhookSubscription.id == subscription.subscription_id,
            WebhookSubscription.disabled_at.is_(None),
        )
        .values(disabled_at=func.now(), disabled_reason=reason)
        .returning(WebhookSubscription.id)
    )
    if (await session.execute(statement)).first():
        audit_logger.warning(
            "audit.webhook_subscription_disabled",
            subject=subscription.owner,
            subscription=str(subscription.subscription_id),
            reason=reason,
        )


def select_disabled() -> Select[*tuple[Any, ...]]:
    """Number of disabled subscriptions."""
    disabled = WebhookSubscription.disabled_at.is_not(None)
    return select(func.count().label("subscriptions")).where(disabled)


async def rotate_secret(
    session: AsyncSession, settings: PlatformSettings, owner: str | None, subscription_id: UUID
) -> str:
    """A new secret; deliveries are signed with the old one, too, for a while."""
    secret, stored = SecretCipher(settings).new()
    overlap = timedelta(seconds=settings.webhook_secret_overlap)
    statement = (
        update(WebhookSubscription)
        .where(_one(owner, subscription_id))
        .values(
            secret=stored,
            previous_secret=WebhookSubscription.secret,
            previous_secret_ends_at=func.now() + overlap,
        )
        .returning(WebhookSubscription.id)
    )
    _found((await session.execute(statement)).first())
    return secret


async def forget_replaced_secrets(session: AsyncSession) -> None:
    """Delete the secrets whose overlap with the new one has ended."""
    over = WebhookSubscription.previous_secret_ends_at < func.now()
    statement = update(WebhookSubscription).where(over)
    await session.execute(statement.values(previous_secret=None, previous_secret_ends_at=None))


async def renew_secrets(
    session: AsyncSession, settings: PlatformSettings, after: UUID, limit: int
) -> UUID | None:
    """Encrypt secrets with the ``SECRET_KEY`` of today: of ``limit`` subscriptions after ``after``.

    Only those of an older key are locked, and not against new deliveries. Returns the last id;
    ``None`` if no subscriptions follow.
    """
    cipher = SecretCipher(settings)
    columns = (WebhookSubscription.id, WebhookSubscription.secret)
    page = select(*columns).where(WebhookSubscription.id > after).order_by(WebhookSubscription.id)
    rows = (await session.execute(page.limit(limit))).all()
    old = [row.id for row in rows if not cipher.is_current(row.secret)]
    if old:
        locked = select(WebhookSubscription).where(WebhookSubscription.id.in_(old))
        for subscription in await session.scalars(locked.with_for_update(key_share=True)):
            subscription.secret = cipher.renew(subscription.secret)
            if subscription.previous_secret:
                subscription.previous_secret = cipher.renew(subscription.previous_secret)
        await session.flush()
    return rows[-1].id if len(rows) == limit else None


def _found(row: T | None) -> T:
    if row is None:
        raise NotFound("There is no such subscription.")
    return row
