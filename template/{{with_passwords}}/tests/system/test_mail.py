"""Delivery of mails by real processes."""

import asyncio
import os
import signal

from sqlalchemy import text

from app.platform.data import mail
from app.platform.data.database import open_database
from app.settings import Settings
from tests.mail import mail_server
from tests.system.serving import Serve

MAILS = 3


async def attempts(settings: Settings) -> int:
    """The attempts of the mail that has the fewest; 0 without mails."""
    async with open_database(settings) as database:
        statement = text("SELECT coalesce(min(attempts), 0) FROM mails")
        return int(await database.read(lambda c: c.execute(statement).scalar_one()))


async def test_a_process_that_is_killed_while_it_sends_loses_no_mail(
    serve: Serve, fresh_settings: Settings
) -> None:
    async with mail_server() as mails:
        mails.silent = True
        async with open_database(fresh_settings) as database, database.transaction() as session:
            for number in range(MAILS):
                message = mail.Mail("hello", "ada@example.com", f"{number}", "Text\n", "<p></p>")
                await mail.send(session, message)
        settings = {"SMTP_URL": mails.url, "SMTP_TLS": "off", "WEB_CONCURRENCY": "1"}
        settings |= {"MAIL_TIMEOUT": "1", "MAIL_POLL_INTERVAL": "0.2"}
        server = await asyncio.to_thread(serve, **settings)
        async with asyncio.timeout(20):
            while not await attempts(fresh_settings):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.02)
        os.kill(await asyncio.to_thread(server.pid), signal.SIGKILL)  # the claim is still held
        mails.silent = False
        async with asyncio.timeout(60):
            while len(mails.received) < MAILS:
                mails.arrived.clear()
                await mails.arrived.wait()

    assert {message["Subject"] for message in mails.received} == {"0", "1", "2"}
    assert len({message["Message-ID"] for message in mails.received}) == MAILS


async def test_a_request_does_not_wait_for_the_mail_server(
    serve: Serve, fresh_settings: Settings
) -> None:
    """A stopping process, too, waits for the mail that it is sending for seconds only."""
    async with mail_server() as mails:
        mails.silent = True
        async with open_database(fresh_settings) as database, database.transaction() as session:
            message = mail.Mail("hello", "ada@example.com", "Hello", "Text\n", "<p></p>")
            await mail.send(session, message)
        settings = {"SMTP_URL": mails.url, "SMTP_TLS": "off", "MAIL_TIMEOUT": "60"}
        settings |= {"MAIL_POLL_INTERVAL": "0.2", "DRAIN_SECONDS": "0"}
        server = await asyncio.to_thread(serve, **settings)
        async with asyncio.timeout(20):
            while not await attempts(fresh_settings):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.02)
        assert (await asyncio.to_thread(server.get, "/health/ready")).is_success
        assert await asyncio.to_thread(server.stop, 20) == 0
