"""Messages in the format of the Internet (RFC 5322), from rows of outgoing mails."""

from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from typing import Any

from app.platform.base import signing
from app.platform.settings import PlatformSettings

SIGNED = "{signed}"  # in a link: where the signed bytes are written


def signing_keys(settings: PlatformSettings) -> signing.Keys:
    return signing.derive_keys(settings, "mail")


def message_of(row: Any, settings: PlatformSettings) -> EmailMessage:
    """The message of a row of ``mails``: the same one, with the same id, at each attempt."""
    signed = signing.sign(signing_keys(settings), row.signed) if row.signed else ""
    _, _, domain = parseaddr(settings.mail_from)[1].rpartition("@")
    message = EmailMessage(policy=SMTP)
    message["From"] = settings.mail_from
    message["To"] = row.recipient
    message["Subject"] = row.subject
    message["Date"] = formatdate(row.created_at.timestamp())
    message["Message-ID"] = f"<{row.id}@{domain or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: suppresses out-of-office replies
    message.set_content(row.text.replace(SIGNED, signed))
    message.add_alternative(row.html.replace(SIGNED, signed), subtype="html")
    return message
