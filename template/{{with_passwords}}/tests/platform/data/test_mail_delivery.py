"""Delivery of mails: a real mail server that answers, refuses, hangs or is away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from socket import socket
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import select, text

from app.platform.data import mail, mail_delivery
from app.settings import Settings
from tests.conftest import running_platform
from tests.mail import MailServer, mail_server, plain

ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_delivery, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(mail_delivery, "STOP_TIMEOUT", 0.1)


@asynccontextmanager
async def sending_app(settings: Settings, url: str, **changes: Any) -> AsyncIterator[FastAPI]:
    """An app that delivers to ``url``, with no mails at the beginning."""
    used = {"smtp_url": url, "smtp_tls": "off", "mail_poll_interval": 0.05, **changes}
    async with running_platform(settings.model_copy(update=used)) as app:
        await clear(app)
        yield app


async def clear(app: FastAPI) -> None:
    """Delete the mails of other tests, which may be claimed for longer than a test waits."""
    async with app.state.db.transaction() as session:
        await session.execute(text("DELETE FROM mails"))


async def send(app: FastAPI, to: str, subject: str = "Hello", **options: Any) -> None:
    async with app.state.db.transaction() as session:
        message = mail.Mail("hello", to, subject, "Text\n", "<p>Text</p>\n")
        await mail.send(session, message, **options)


async def rows(app: FastAPI) -> list[mail.OutgoingMail]:
    async with app.state.db.transaction() as session:
        return list(await session.scalars(select(mail.OutgoingMail)))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 (the database tells nobody)
            await asyncio.sleep(0.01)


async def test_a_mail_is_delivered_at_once_and_leaves_no_row(
    module_settings: Settings, server: MailServer
) -> None:
    async with sending_app(module_settings, server.url, mail_poll_interval=3600) as app:
        await send(app, ADA)
        [message] = await server.receives()
        await until(lambda: _is_empty(app))

    assert message["To"] == ADA
    assert plain(message) == "Text\n"


async def test_a_bounce_would_go_to_the_address_in_mail_from(
    module_settings: Settings, server: MailServer
) -> None:
    sender = {"mail_from": "Shop <no-reply@example.com>"}
    async with sending_app(module_settings, server.url, **sender) as app:
        await send(app, ADA)
        [message] = await server.receives()

    assert message["From"] == "Shop <no-reply@example.com>"
    assert server.senders == ["no-reply@example.com"]


async def _is_empty(app: FastAPI) -> bool:
    return not await rows(app)


async def test_mails_wait_for_a_server_that_is_away(module_settings: Settings) -> None:
    with socket() as address:  # refuses connections until it listens
        address.bind(("127.0.0.1", 0))
        port = address.getsockname()[1]
        async with sending_app(module_settings, f"smtp://127.0.0.1:{port}") as app:
            await send(app, ADA)
            await until(lambda: _attempted(app, 2))
            async with mail_server(address) as back:
                assert [message["To"] for message in await back.receives()] == [ADA]


async def test_each_outage_of_the_database_is_logged_once(
    fresh_settings: Settings, server: MailServer, capfd: pytest.CaptureFixture[str]
) -> None:
    rename = "ALTER TABLE {} RENAME TO {}"
    written: list[str] = []

    async def outages(count: int) -> bool:
        written.extend(capfd.readouterr().out.splitlines())
        return sum("mails not read" in line for line in written) == count

    async with sending_app(fresh_settings, server.url) as app:
        for outage in (1, 2):
            async with app.state.db.transaction() as session:
                await session.execute(text(rename.format("mails", "mails_away")))
            await until(lambda count=outage: outages(count))
            async with app.state.db.transaction() as session:
                await session.execute(text(rename.format("mails_away", "mails")))
            await send(app, ADA)
            await server.receives(outage)
            await until(lambda: _is_empty(app))


async def test_without_a_mail_server_and_after_the_stop_no_mail_is_claimed(
    module_settings: Settings, server: MailServer
) -> None:
    reachable = module_settings.model_copy(update={"smtp_url": server.url, "smtp_tls": "off"})
    async with running_platform(module_settings) as app:
        await clear(app)
        await send(app, ADA)
        await mail_delivery.Delivery(app, module_settings)._deliver_due()
        stopped = mail_delivery.Delivery(app, reachable)
        await stopped.stop(asyncio.create_task(stopped.run()))
        await stopped._deliver_due()
        assert [row.attempts for row in await rows(app)] == [0]
    assert server.attempts == []


async def test_a_batch_that_fails_is_the_last_until_the_next_poll(
    module_settings: Settings, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = module_settings.model_copy(update={"smtp_url": server.url, "smtp_tls": "off"})
    attempts = 0

    async def fail() -> bool:
        nonlocal attempts
        attempts += 1
        delivery._stopping = attempts == 2
        raise ConnectionRefusedError

    async with running_platform(module_settings) as app:
        delivery = mail_delivery.Delivery(app, reachable)
        monkeypatch.setattr(delivery, "_deliver_batch", fail)
        await delivery._deliver_due()
    assert attempts == 1


async def _attempted(app: FastAPI, times: int) -> bool:
    return min((row.attempts for row in await rows(app)), default=0) >= times


async def test_a_silent_server_costs_no_request_and_loses_no_mail(
    module_settings: Settings, server: MailServer
) -> None:
    server.silent = True
    async with sending_app(module_settings, server.url, mail_timeout=0.4) as app:
        async with asyncio.timeout(6):  # 20 transactions; waiting for the server would take 8 s
            for number in range(20):
                await send(app, ADA, f"{number}")
        await until(lambda: _attempted(app, 1))
        server.silent = False
        messages = await server.receives(20)

    assert sorted(int(message["Subject"]) for message in messages) == list(range(20))


async def test_a_mail_that_is_refused_for_good_is_logged_and_holds_up_no_other(
    module_settings: Settings, server: MailServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.replies[BOB] = "550 5.1.1 no such user bob@example.com"
    async with sending_app(module_settings, server.url) as app:
        await send(app, BOB)
        await send(app, ADA)
        await server.receives()
        await until(lambda: _is_empty(app))

    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    [refused] = [line for line in lines if line["event"] == "mail refused"]
    assert (refused["kind"], refused["code"]) == ("hello", 550)
    assert BOB not in json.dumps(lines)
    assert server.attempts.count(BOB) == 1


async def test_a_mail_that_is_refused_for_now_is_tried_again(
    module_settings: Settings, server: MailServer
) -> None:
    server.replies[ADA] = "450 4.2.1 greylisted"
    async with sending_app(module_settings, server.url) as app:
        await send(app, ADA)
        await until(lambda: _attempted(app, 2))
        server.replies.clear()
        messages = await server.receives()

    assert len(messages) == 1


async def test_two_processes_deliver_each_mail_once(
    module_settings: Settings, server: MailServer
) -> None:
    async with (
        sending_app(module_settings, server.url) as app,
        sending_app(module_settings, server.url),
    ):
        async with app.state.db.transaction() as session:
            for number in range(20):
                message = mail.Mail("hello", ADA, f"{number}", "Text\n", "<p>Text</p>\n")
                await mail.send(session, message)
        await server.receives(20)
        await until(lambda: _is_empty(app))

    assert sorted(int(message["Subject"]) for message in server.received) == list(range(20))


async def test_a_mail_that_expires_is_given_up_and_a_decoy_is_never_delivered(
    module_settings: Settings, server: MailServer, capfd: pytest.CaptureFixture[str]
) -> None:
    async with sending_app(module_settings, server.url, mail_poll_interval=3600) as app:
        await send(app, BOB, is_decoy=True, at_once=False)
        await send(app, BOB, at_once=False)
        async with app.state.db.transaction() as session:
            expired = text("UPDATE mails SET expires_at = now() WHERE NOT is_decoy")
            await session.execute(expired)
        await send(app, ADA)
        await server.receives()
    async with running_platform(
        app.state.settings.model_copy(update={"mail_poll_interval": 0.05})
    ) as app:
        await until(lambda: _is_empty(app))

    assert [message["To"] for message in server.received] == [ADA]
    events = [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()]
    assert events.count("mail given up") == 1


async def test_a_mail_without_tls_is_not_sent_where_tls_is_required(
    module_settings: Settings, server: MailServer
) -> None:
    async with sending_app(module_settings, server.url, smtp_tls="starttls") as app:
        await send(app, ADA)
        await until(lambda: _attempted(app, 1))

        assert len(await rows(app)) == 1
    assert server.attempts == []


async def test_in_development_mails_are_in_the_output(
    module_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    developing = module_settings.model_copy(update={"environment": "development"})
    async with running_platform(developing) as app:
        await clear(app)
        link = "http://localhost:8000/verify-email#token=abc"
        async with app.state.db.transaction() as session:
            await mail.send(session, mail.Mail("hello", ADA, "Look here", f"{link}\n", "<p></p>"))
        await until(lambda: _is_empty(app))

    assert f"Mail to {ADA}: Look here\n\n{link}\n" in capfd.readouterr().out


async def test_a_claim_is_of_at_most_a_batch_whatever_the_plan(module_settings: Settings) -> None:
    async with running_platform(module_settings) as app:
        await clear(app)
        for _ in range(5):
            await send(app, ADA)
        async with app.state.db.transaction() as session:
            # Leaves a nested loop, with the subquery within.
            for kind in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
                await session.execute(text(f"SET LOCAL enable_{kind} = off"))
            claimed = await session.execute(mail_delivery.CLAIM, {"lease": 60, "limit": 2})
            assert len(claimed.all()) == 2


async def test_a_claim_outlasts_the_connection_and_each_mail_of_a_batch(
    module_settings: Settings, server: MailServer
) -> None:
    server.silent = True
    async with sending_app(module_settings, server.url, mail_timeout=300) as app:
        await send(app, ADA)
        await until(lambda: _attempted(app, 1))
        async with app.state.db.transaction() as session:
            left = await session.scalar(text("SELECT due_at - now() FROM mails"))
        assert left > timedelta(seconds=300 * (1 + mail_delivery.BATCH_SIZE))


class SlowServer(asyncio.Protocol):
    """Takes half of the time-out for the greeting, and again for each reply."""

    received: ClassVar[list[bytes]] = []

    def _reply(self, line: bytes) -> None:
        asyncio.get_running_loop().call_later(0.15, self._write, line + b"\r\n")

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._reply(b"220 slow")

    def data_received(self, data: bytes) -> None:
        self.received.append(data[:4])
        replies = {b"EHLO": b"250-slow\r\n250 AUTH PLAIN", b"AUTH": b"235 OK"}
        self._reply(replies.get(data[:4], b"250 OK"))


async def test_to_connect_takes_one_time_out_in_all(module_settings: Settings) -> None:
    server = await asyncio.get_running_loop().create_server(SlowServer, "127.0.0.1")
    url = f"smtp://shop@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    changes = {"mail_timeout": 0.3, "smtp_password": SecretStr("any")}
    async with sending_app(module_settings, url, **changes) as app:
        await send(app, ADA)
        await until(lambda: _attempted(app, 2))
    server.close()
    assert SlowServer.received
    assert b"MAIL" not in SlowServer.received
