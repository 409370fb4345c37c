"""Mails: templates, escaping, transactions."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import select, update

from app.platform.data import mail, mail_metrics
from app.settings import Settings
from tests.mail import mails_to, plain
from tests.required import REQUIRED

ADA = "ada@example.com"
HOSTILE = '<script>alert("1")</script>\r\nBcc: eve@example.com\u202e'


@pytest.fixture
def templates(tmp_path: Path) -> mail.MailTemplates:
    written = {
        "en/hello.txt": "Subject for $name\n\nHello $name,\nread $link\n",
        "en/hello.html": '<p>Hello $name, <a href="$link">read</a></p>',
        "de/hello.txt": "Betreff für $name\n\nHallo $name,\nlies $link\n",
        "de/hello.html": '<p>Hallo $name, <a href="$link">lies</a></p>',
    }
    for path, text in written.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return mail.MailTemplates(tmp_path)


async def send(app: FastAPI, message: mail.Mail, **options: object) -> None:
    async with app.state.db.transaction() as session:
        await mail.send(session, message, **options)  # type: ignore[arg-type]


async def test_a_mail_has_text_html_and_the_headers_that_a_mail_needs(
    app: FastAPI, templates: mail.MailTemplates
) -> None:
    await send(app, templates.render("hello", ADA, name="Ada", link="https://example.com/a?b&c"))
    [message] = await mails_to(app, ADA)

    html = message.get_body(("html",))
    assert html
    assert message["Subject"] == "Subject for Ada"
    assert message["To"] == ADA
    assert message["From"] == "no-reply@localhost"
    assert message["Date"]
    assert message["Message-ID"].endswith("@localhost>")
    assert message["Auto-Submitted"] == "auto-generated"
    assert plain(message) == "Hello Ada,\nread https://example.com/a?b&c\n"
    assert '<a href="https://example.com/a?b&amp;c">' in html.get_content()


async def test_a_hostile_value_changes_neither_the_headers_nor_the_markup(
    app: FastAPI, templates: mail.MailTemplates
) -> None:
    await send(app, templates.render("hello", ADA, name=HOSTILE, link=HOSTILE))
    [message] = await mails_to(app, ADA)

    html = message.get_body(("html",))
    assert html
    assert message["Bcc"] is None
    assert message["Subject"].startswith("Subject for <script>")
    assert "<script>" not in html.get_content()
    assert len(plain(message).splitlines()) == 2
    assert "\u202e" not in plain(message)


@pytest.mark.parametrize(
    ("locale", "subject"),
    [("de", "Betreff für Ada"), ("de-AT", "Betreff für Ada"), ("fr", "Subject for Ada")],
)
def test_a_mail_is_in_the_language_of_its_recipient_or_in_english(
    templates: mail.MailTemplates, locale: str, subject: str
) -> None:
    rendered = templates.render("hello", ADA, locale=locale, name="Ada", link="x")

    assert rendered.subject == subject


def test_a_missing_value_or_template_is_an_error(templates: mail.MailTemplates) -> None:
    with pytest.raises(KeyError):
        templates.render("hello", ADA, name="Ada")
    with pytest.raises(FileNotFoundError, match=r"en/goodbye\.txt"):
        templates.render("goodbye", ADA)


async def test_a_mail_of_a_transaction_that_rolls_back_is_not_sent(
    app: FastAPI, templates: mail.MailTemplates
) -> None:
    async def fail_after_sending() -> None:
        async with app.state.db.transaction() as session:
            await mail.send(session, templates.render("hello", ADA, name="Ada", link="x"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_sending()

    assert await mails_to(app, ADA) == []


async def test_the_database_never_has_a_valid_token(
    app: FastAPI, templates: mail.MailTemplates
) -> None:
    link = f"https://example.com/#token={mail.SIGNED}"
    await send(app, templates.render("hello", ADA, name="Ada", link=link), signed=b"payload")
    async with app.state.db.transaction() as session:
        stored = (await session.scalars(select(mail.OutgoingMail))).one()
    [message] = await mails_to(app, ADA)
    token = plain(message).partition("#token=")[2].strip()

    assert mail.read_signed(app.state.settings, token) == b"payload"
    assert token not in f"{stored.text} {stored.html} {stored.signed!r}"
    for forged in (token[:-1] + ("A" if token[-1] != "A" else "B"), "", "é", "cGF5bG9hZA"):
        with pytest.raises(ValueError, match="sign"):
            mail.read_signed(app.state.settings, forged)


DEPLOYED = {"smtp_url": "smtps://app@mail.example.com"}
COMPLETE = {"public_url": "https://app.example.com", "mail_from": "App <no-reply@example.com>"}


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"public_url": "app.example.com"}, "write it as https://app.example.com"),
        ({"public_url": "http://app.example.com"}, "must begin with https://"),
        ({"public_url": "https://app.example.com/?a"}, "is not an address"),
        ({"public_url": "https://[app.example.com"}, "is not an address"),
        ({"public_url": "https://app.example.com:99999"}, "is not an address"),
        ({"public_url": ""}, "needs PUBLIC_URL"),
        ({"mail_from": ""}, "needs MAIL_FROM"),
        ({"mail_from": "nobody"}, "is not a sender"),
        ({"mail_from": "a@example.com\nBcc: b@example.com"}, "is not a sender"),
        ({"smtp_url": "mail.example.com"}, "is not a mail server"),
        ({"smtp_url": "smtp://host:port"}, "is not a mail server"),
        ({"smtp_url": "smtps://app:kW7zR2mQ9x@mail"}, "into SMTP_PASSWORD"),
        ({"smtp_url": "smtp://app@mail", "smtp_tls": "off"}, "unencrypted"),
    ],
)
def test_settings_that_can_not_work_are_refused_in_production(
    production: Callable[..., Settings], changes: dict[str, object], hint: str
) -> None:
    with pytest.raises(ValidationError, match=hint):
        production(**DEPLOYED | COMPLETE | changes)


def test_complete_settings_are_accepted_in_production(
    production: Callable[..., Settings],
) -> None:
    assert production(**DEPLOYED | COMPLETE).public_url == "https://app.example.com"
    assert production().smtp_url is None


@pytest.fixture
def production() -> Callable[..., Settings]:
    required = {name.lower(): value for name, value in REQUIRED.items()}

    def make(**changes: object) -> Settings:
        return Settings(**{**required, **changes})  # type: ignore[arg-type]

    return make


async def test_metrics_report_the_mails_that_wait_and_the_age_of_the_oldest(
    app: FastAPI, templates: mail.MailTemplates
) -> None:
    message = templates.render("hello", ADA, name="Ada", link="https://example.com")
    await send(app, message)
    await send(app, message)
    assert await gauges(app) == {"mails_waiting": 2, "mails_oldest_seconds": 0}
    async with app.state.db.transaction() as session:
        created_at = mail.OutgoingMail.created_at - timedelta(hours=1)
        await session.execute(update(mail.OutgoingMail).values(created_at=created_at))
    await send(app, message, is_decoy=True)
    await send(app, message, lifetime=timedelta(0))

    assert await gauges(app) == {"mails_waiting": 2, "mails_oldest_seconds": 3600}


async def gauges(app: FastAPI) -> dict[str, int]:
    """The metrics of mails, in whole numbers."""
    found = [*await mail_metrics.collect(app)]
    return {metric.name: int(metric.samples[0].value) for metric in found}
