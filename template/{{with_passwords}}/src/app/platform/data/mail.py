"""E-mail that is sent if, and only if, the transaction commits: a table of outgoing mails.

A feature renders a mail from its templates and calls ``send`` with its session. The mail is a row
until the mail server has accepted it, so no outage and no restart loses one.
"""

import html
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from string import Template
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Boolean, DateTime, Index, Integer, LargeBinary, Text, false, func, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.base import signing
from app.platform.data.database import Base, ensure_open, on_commit
from app.platform.data.mail_delivery import announce, setup
from app.platform.data.mail_messages import SIGNED, signing_keys
from app.platform.settings import PlatformSettings

__all__ = ["SIGNED", "Mail", "MailTemplates", "OutgoingMail", "read_signed", "send", "setup"]

LIFETIME = timedelta(days=3)  # how long delivery is tried, unless the mail says otherwise
FALLBACK_LOCALE = "en"


class OutgoingMail(Base):
    """A mail that the mail server has not accepted yet.

    ``signed``: bytes that replace ``SIGNED`` in the texts, signed, when the mail is delivered.
    ``is_decoy``: never delivered. ``due_at``: when the next attempt may begin.
    """

    __tablename__ = "mails"
    __table_args__ = (
        Index("ix_mails_due_at", "due_at"),
        Index("ix_mails_expires_at", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    html: Mapped[str] = mapped_column(Text)
    signed: Mapped[bytes | None] = mapped_column(LargeBinary)
    is_decoy: Mapped[bool] = mapped_column(Boolean, server_default=false())
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


INSERT = insert(OutgoingMail.__table__)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one recipient, as text and HTML. ``kind``: its template, for the log."""

    kind: str
    to: str
    subject: str
    text: str
    html: str


class MailTemplates:
    """The templates of a feature: ``<folder>/<locale>/<kind>.txt`` and ``.html``.

    The first line of the text is the subject. ``$name`` is replaced by a value.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def render(
        self, kind: str, to: str, *, locale: str = FALLBACK_LOCALE, **values: object
    ) -> Mail:
        """A mail with ``values`` in it: on one line each, and escaped in the HTML.

        Without templates for ``locale``, those of its language are used, and else the English ones.
        Raises ``KeyError`` if a value is missing.
        """
        plain = {name: " ".join(str(value).split()) for name, value in values.items()}
        plain = {name: "".join(filter(str.isprintable, value)) for name, value in plain.items()}
        escaped = {name: html.escape(value) for name, value in plain.items()}
        source, markup = _sources(self._folder, kind, locale)
        subject, _, body = source.substitute(plain).partition("\n")
        return Mail(kind, to, subject.strip(), body.strip() + "\n", markup.substitute(escaped))


@cache
def _sources(folder: Path, kind: str, locale: str) -> tuple[Template, Template]:
    language = locale.partition("-")[0]
    for name in (locale, language, FALLBACK_LOCALE):
        source = folder / name / f"{kind}.txt"
        if source.is_file():
            markup = source.with_suffix(".html")
            return tuple(Template(file.read_text(encoding="utf-8")) for file in (source, markup))  # type: ignore[return-value]
    raise FileNotFoundError(f"{folder / FALLBACK_LOCALE / kind}.txt")


async def send(
    session: AsyncSession,
    mail: Mail,
    *,
    lifetime: timedelta = LIFETIME,
    signed: bytes | None = None,
    at_once: bool = True,
    is_decoy: bool = False,
) -> UUID:
    """Send a mail once the transaction commits; return its id.

    ``lifetime``: how long delivery is tried. ``signed``: bytes, such as the id of a token, which
    replace ``SIGNED`` in the texts, signed: the database never holds a token that is valid.
    ``at_once``: false leaves the mail to the next look for due ones, so that the response takes
    the same time. ``is_decoy``: do the same work, but deliver nothing.
    """
    ensure_open(session)
    mail_id = uuid4()
    values: dict[str, Any] = {
        "id": mail_id,
        "kind": mail.kind,
        "recipient": mail.to,
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        "signed": signed,
        "is_decoy": is_decoy,
        "expires_at": func.now() + lifetime,
    }
    await session.execute(INSERT.values(values))
    if at_once:
        on_commit(session, announce)
    return mail_id


def read_signed(settings: PlatformSettings, given: str) -> bytes:
    """The bytes that a mail was sent with; raises ``ValueError`` if no mail had this text."""
    return signing.verify(signing_keys(settings), given)
