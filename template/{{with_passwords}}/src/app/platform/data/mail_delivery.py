"""Delivery of outgoing mails by every process that runs the app, each mail by one of them.

A process claims due mails for a while (``SKIP LOCKED``), so that no transaction is open while the
mail server answers. Delivery is at least once: if a process dies between the server's answer and
the deletion of the row, the mail is sent again with the same ``Message-ID``.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from email.message import EmailMessage
from functools import partial
from typing import Any

import aiosmtplib
from fastapi import FastAPI
from sqlalchemy import Connection, Row, TextClause, text

from app.platform.base.components import Lifespan
from app.platform.base.tasks import cancel
from app.platform.data import mail_metrics
from app.platform.data.mail_messages import message_of
from app.platform.observability import metrics
from app.platform.observability.logs import get_logger, output
from app.platform.settings import PlatformSettings
from app.platform.settings.mail import smtp_options

BATCH_SIZE = 10  # mails over one connection
MARGIN = 5.0  # seconds that a claim lasts longer than the attempts of its batch may
FIRST_RETRY, LAST_RETRY = 5.0, 600.0  # seconds; doubles with each attempt
STOP_TIMEOUT = 5.0  # seconds for the mail that is being sent when the process stops

CLAIM = text(
    "UPDATE mails SET attempts = attempts + 1, due_at = now() + make_interval(secs => :lease)"
    # ARRAY() is evaluated once: with IN, a plan may repeat the subquery and exceed its LIMIT.
    " WHERE id = ANY(ARRAY(SELECT id FROM mails WHERE due_at <= now() AND expires_at > now()"
    " ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED)) RETURNING *"
)
RETRY = text("UPDATE mails SET due_at = now() + make_interval(secs => :wait) WHERE id = :id")
DELETE = text("DELETE FROM mails WHERE id = :id")
DELETE_EXPIRED = text("DELETE FROM mails WHERE expires_at <= now() RETURNING id, kind, is_decoy")

logger = get_logger(__name__)

Send = Callable[[EmailMessage], Awaitable[object]]


class MailRefused(Exception):
    """The mail server refuses a mail for good. ``code``: its SMTP reply code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


class Delivery:
    """Delivers the mails that are due, from one process."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._options = smtp_options(settings)
        self._one_at_a_time = asyncio.Lock()
        self._announced: asyncio.Task[None] | None = None
        self._stopping = False
        self._reported = False

    @property
    def delivers(self) -> bool:
        """Whether there is a mail server, or an output to show mails in."""
        return self._options is not None or self._settings.environment == "development"

    def announce(self) -> None:
        """Deliver what is due now, in a task of its own, which no request waits for."""
        if self.delivers and (self._announced is None or self._announced.done()):
            # Not in the context of the request: it has its own transaction and its own deadline.
            self._announced = asyncio.create_task(self._deliver_due(), context=Context())

    async def run(self) -> None:
        """Deliver what is due, every ``MAIL_POLL_INTERVAL`` seconds."""
        while True:
            pause = self._settings.mail_poll_interval * random.uniform(0.8, 1.2)  # noqa: S311
            await asyncio.sleep(pause)
            await self._deliver_due()
            await self._report(self._delete_expired())

    async def stop(self, loop: asyncio.Task[None]) -> None:
        """Finish the mail that is being sent, within ``STOP_TIMEOUT``."""
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT), self._one_at_a_time:
                pass
        await cancel(*filter(None, (loop, self._announced)))

    async def _deliver_due(self) -> None:
        async with self._one_at_a_time:
            while self.delivers and not self._stopping:
                if not await self._report(self._deliver_batch()):
                    break

    async def _report(self, work: Awaitable[bool]) -> bool:
        """The result of ``work``; an outage of the database is logged once."""
        try:
            done = await work
        except Exception as error:  # noqa: BLE001 (whatever it is, the next attempt comes)
            if not self._reported:
                logger.warning("mails not read", error=type(error).__name__)
            self._reported = True
            return False
        self._reported = False
        return done

    async def _deliver_batch(self) -> bool:
        """Deliver up to ``BATCH_SIZE`` due mails; return whether there may be more."""
        lease = (1 + BATCH_SIZE) * self._settings.mail_timeout + MARGIN  # to connect, and a mail
        waiting = list(await self._execute(CLAIM, lease=lease, limit=BATCH_SIZE))
        more = len(waiting) == BATCH_SIZE
        for row in [row for row in waiting if row.is_decoy]:
            await self._execute(DELETE, id=row.id)
            waiting.remove(row)
        if not waiting:
            return more
        try:
            async with self._connect() as send:
                while waiting and not self._stopping:
                    await self._deliver(waiting[0], send)
                    del waiting[0]
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            logger.warning("mail server not available", error=type(error).__name__)
            more = False
        for row in waiting:
            await self._retry_later(row)
        return more

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Send]:
        if self._options is None:
            yield self._show
            return
        server = aiosmtplib.SMTP(**self._options)
        async with asyncio.timeout(self._settings.mail_timeout):  # its own is for each step
            await server.connect()
        async with server:
            yield server.send_message

    async def _show(self, message: EmailMessage) -> None:
        """Write a mail to stdout: the log redacts addresses, and the tokens in links."""
        body = message.get_body(("plain",))
        text = body.get_content() if body else ""
        output.write(f"Mail to {message['To']}: {message['Subject']}\n\n{text}\n".encode())

    async def _deliver(self, row: Row[Any], send: Send) -> None:
        """Deliver one mail, and delete it; raise only if the server can't be used any more."""
        try:
            message = message_of(row, self._settings)
            async with asyncio.timeout(self._settings.mail_timeout):
                await _send(send, message)
        except MailRefused as refusal:
            logger.warning("mail refused", mail=str(row.id), kind=row.kind, code=refusal.code)
        except aiosmtplib.SMTPResponseException as error:
            if isinstance(error, ConnectionError):
                raise
            logger.warning("mail deferred", mail=str(row.id), kind=row.kind, code=error.code)
            await self._retry_later(row)
            return
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 (one bad mail must not stop the others)
            logger.warning(
                "mail not composed", mail=str(row.id), kind=row.kind, error=type(error).__name__
            )
            await self._retry_later(row)
            return
        else:
            logger.info("mail sent", mail=str(row.id), kind=row.kind, attempts=row.attempts)
        await self._execute(DELETE, id=row.id)

    async def _retry_later(self, row: Row[Any]) -> None:
        wait = min(FIRST_RETRY * 2 ** min(row.attempts - 1, 10), LAST_RETRY)
        await self._execute(RETRY, id=row.id, wait=wait * random.uniform(0.8, 1))  # noqa: S311

    async def _delete_expired(self) -> bool:
        for row in await self._execute(DELETE_EXPIRED):
            if not row.is_decoy:
                logger.warning("mail given up", mail=str(row.id), kind=row.kind)
        return True

    async def _execute(self, statement: TextClause, **values: Any) -> list[Row[Any]]:
        def run(connection: Connection) -> list[Row[Any]]:
            result = connection.execute(statement, values)
            return list(result.all()) if result.returns_rows else []

        rows: list[Row[Any]] = await self._app.state.db.autocommit(run)
        return rows


async def _send(send: Send, message: EmailMessage) -> None:
    """Send one message; raise ``MailRefused`` for what another attempt would not change."""
    try:
        await send(message)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients[0]
        if refused.code >= 500:
            raise MailRefused(refused.code) from error
        raise aiosmtplib.SMTPDataError(refused.code, refused.message) from error
    except aiosmtplib.SMTPDataError as error:
        if error.code >= 500:
            raise MailRefused(error.code) from error
        raise
    except aiosmtplib.SMTPNotSupported as error:  # an address that this server can't be told
        raise MailRefused(553) from error


_running: set[Delivery] = set()  # of the apps of this process


async def announce() -> None:
    """Deliver what has just been committed, after the response."""
    for delivery in _running:
        delivery.announce()


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    metrics.register(app, "mails", partial(mail_metrics.collect, app), ttl=mail_metrics.TTL)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        delivery = Delivery(app, settings)
        if not delivery.delivers and not settings.is_deployed:
            yield  # in tests, mails are rows
            return
        if not delivery.delivers:
            logger.warning("mails wait in the database: SMTP_URL is not set")
        _running.add(delivery)
        loop = asyncio.create_task(delivery.run())
        try:
            yield
        finally:
            _running.discard(delivery)
            await delivery.stop(loop)

    return lifespan
