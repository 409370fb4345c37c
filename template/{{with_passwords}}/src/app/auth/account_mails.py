"""Mails to the owners of accounts, from the templates in ``mails``."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import account_tokens
from app.platform import about
from app.platform.data import mail
from app.settings import Settings

TEMPLATES = mail.MailTemplates(Path(__file__).parent / "mails")
# Pages of yours, below PUBLIC_URL. The token is in the fragment, which browsers send nowhere.
PAGES: dict[account_tokens.Purpose, str] = {
    "verify_email": "/verify-email",
    "reset_password": "/reset-password",
    "change_email": "/confirm-email",
}


async def send_link(
    db: AsyncSession,
    settings: Settings,
    kind: str,
    purpose: account_tokens.Purpose,
    account_id: UUID | None,
    email: str,
    **options: Any,
) -> None:
    """Send a link with a new token. Without an account, do the same work, and send nothing."""
    seconds = (
        settings.password_reset_lifetime
        if purpose == "reset_password"
        else settings.email_verification_lifetime
    )
    signed = await account_tokens.issue(db, account_id, purpose, email, seconds)
    link = f"{settings.public_url}{PAGES[purpose]}#token={mail.SIGNED}"
    message = _render(settings, kind, email, link=link, validity=_duration(seconds))
    await mail.send(
        db,
        message,
        lifetime=timedelta(seconds=seconds),
        signed=signed,
        is_decoy=account_id is None,
        **options,
    )


async def send_notice(
    db: AsyncSession, settings: Settings, kind: str, email: str, **values: object
) -> None:
    """Tell the owner of an account what has happened to it."""
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    reset = f"{settings.public_url}/forgot-password"
    await mail.send(db, _render(settings, kind, email, time=time, reset=reset, **values))


def _render(settings: Settings, kind: str, email: str, **values: object) -> mail.Mail:
    return TEMPLATES.render(
        kind, email, locale=settings.mail_locale, service=about.NAME, email=email, **values
    )


def _duration(seconds: int) -> str:
    hours, minutes = seconds // 3600, seconds // 60
    return f"{hours} h" if hours > 1 else f"{minutes} min"
