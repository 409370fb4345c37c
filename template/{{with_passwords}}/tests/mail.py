"""E-mail for tests: what was sent, and a mail server in this process."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from socket import create_server, socket
from typing import Any

from aiosmtpd.smtp import SMTP
from fastapi import FastAPI
from sqlalchemy import literal_column, select

from app.platform.data.mail import OutgoingMail
from app.platform.data.mail_messages import message_of


async def mails_to(app: FastAPI, address: str) -> list[EmailMessage]:
    """The mails to ``address`` that were sent and have not left the database, oldest first.

    In tests none of them leaves it, unless the settings have an ``smtp_url``.
    """
    statement = select(OutgoingMail).where(
        OutgoingMail.recipient == address, OutgoingMail.is_decoy.is_(False)
    )
    # A test may be one transaction, whose mails have one time: `cmin` is the number of its command.
    number = literal_column("cmin::text::bigint")
    ordered = statement.order_by(OutgoingMail.created_at, number)
    async with app.state.db.transaction() as session:
        rows = await session.scalars(ordered)
        return [message_of(row, app.state.settings) for row in rows]


def plain(message: EmailMessage) -> str:
    """The text of a mail."""
    body = message.get_body(("plain",))
    assert body
    text: str = body.get_content()
    return text.replace("\r\n", "\n")


def link_token(message: EmailMessage) -> str:
    """The token in the link of a mail."""
    [token] = re.findall(r"#token=([\w-]+)", plain(message))
    return str(token)


@dataclass
class MailServer:
    """A real SMTP server. ``replies``: to the recipients, by address, instead of accepting them.

    ``senders``: of the envelopes, to whom a bounce goes. ``silent``: take connections, and say
    nothing.
    """

    port: int = 0
    received: list[EmailMessage] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)
    silent: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        self.attempts.append(address)
        if reply := self.replies.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        message = message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.senders.append(envelope.mail_from)
        self.received.append(message)
        self.arrived.set()
        return "250 OK"

    async def receives(self, count: int = 1) -> list[EmailMessage]:
        """What has been received, once that are ``count`` mails or more."""
        async with asyncio.timeout(20):
            while len(self.received) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.received


@asynccontextmanager
async def mail_server(address: socket | None = None) -> AsyncIterator[MailServer]:
    """Run a mail server on this event loop, at the ``address`` of a bound socket or a new one."""
    mails = MailServer()
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.BaseProtocol:
        return asyncio.Protocol() if mails.silent else SMTP(mails, hostname="test", loop=loop)

    listener = address or create_server(("127.0.0.1", 0))
    server = await loop.create_server(protocol, sock=listener)
    mails.port = server.sockets[0].getsockname()[1]
    try:
        yield mails
    finally:
        server.close()
