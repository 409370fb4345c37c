"""Attacks on the life of an account: what docs/accounts.md lists, tried."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import select, text

from app.platform.auth.models import AccountToken, LoginSession
from app.platform.auth.passwords import Passwords
from app.platform.settings.rates import Rate
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, log_in, post, register
from tests.conftest import running_app
from tests.mail import link_token, mails_to, plain

ADA, NOBODY = "ada@example.com", "nobody@example.com"
HOME, STRANGER = "192.0.2.1", "203.0.113.1"
SAVEPOINT_NUMBER = re.compile(r"(?<=sa_savepoint_)\d+$")
NEUTRAL = ("forgot-password", "verify-email/send")  # routes that must not tell who has an account


def body(answer: httpx2.Response) -> dict[str, Any]:
    return {k: v for k, v in answer.json().items() if k not in ("request_id", "trace_id")}


@pytest.mark.parametrize("path", NEUTRAL)
async def test_the_answer_does_not_tell_who_has_an_account(
    app: FastAPI, client: httpx2.AsyncClient, path: str
) -> None:
    await register(client, ADA)
    known, unknown = await post(client, path, email=ADA), await post(client, path, email=NOBODY)

    assert known.status_code == unknown.status_code == 202
    assert body(known) == body(unknown)
    assert {*known.headers} == {*unknown.headers}
    assert len(await mails_to(app, ADA)) == 2
    assert await mails_to(app, NOBODY) == []


@pytest.mark.parametrize("path", NEUTRAL)
async def test_the_same_statements_run_whether_or_not_there_is_an_account(
    client: httpx2.AsyncClient, queries: list[str], path: str
) -> None:
    """The time of an answer is that of its statements: equal ones leave nothing to measure."""
    await register(client, ADA)
    sent = []
    for email in (ADA, NOBODY):
        queries.clear()
        await post(client, path, email=email)
        sent.append([SAVEPOINT_NUMBER.sub("", statement) for statement in queries])

    assert sent[0] == sent[1]
    assert sum("INSERT" in statement for statement in sent[1]) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"X-Forwarded-Host": "evil.test"},
        {"Forwarded": "host=evil.test"},
        {"Origin": "https://evil.test", "Referer": "https://evil.test/"},
        {"X-Original-URL": "https://evil.test/", "X-Forwarded-Proto": "gopher"},
    ],
)
async def test_no_header_of_a_request_changes_where_a_link_leads(
    app: FastAPI, client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    await register(client, ADA)
    await post(client, "forgot-password", headers, email=ADA)

    message = (await mails_to(app, ADA))[-1]
    assert "\nhttp://localhost:8000/reset-password#token=" in plain(message)
    assert "evil" not in message.as_string()


async def test_a_link_can_not_be_made_to_lead_elsewhere(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    """Open redirect: there is no parameter for a place to go to."""
    await register(client, ADA)
    for name in ("next", "redirect", "redirect_uri", "return_to", "callback", "url"):
        refused = await post(client, "forgot-password", email=ADA, **{name: "https://evil.test"})
        assert refused.status_code == 422
        query = f"{AUTH}/forgot-password?{name}=https://evil.test"
        await app.state.redis.flushdb()
        assert (await client.post(query, json={"email": ADA})).status_code == 202

    assert not [m for m in await mails_to(app, ADA) if "evil" in m.as_string()]


@pytest.fixture
async def limited(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """Two mails an hour to an address, four for a client; ADA has logged in from HOME."""
    limits = {"mail_limit_address": Rate(2, 3600), "mail_limit_client": Rate(4, 3600)}
    async with running_app(module_settings.model_copy(update=limits)) as app:
        await app.state.redis.flushdb()
        async with app.state.db.transaction() as db:
            await db.execute(text("DELETE FROM accounts"))
            await db.execute(text("DELETE FROM mails"))
        async with client_from(app, HOME) as home:
            await register(home, ADA)
            assert (await log_in(home, ADA)).is_success
        yield app


def client_from(app: FastAPI, address: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, client=(address, 12345))
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


async def ask(app: FastAPI, address: str, email: str = ADA) -> int:
    async with client_from(app, address) as client:
        return (await post(client, "forgot-password", email=email)).status_code


@pytest.mark.parametrize("email", [ADA, NOBODY])
async def test_mail_bombing_is_bounded_for_an_address_from_however_many_clients(
    limited: FastAPI, email: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = [await ask(limited, f"203.0.113.{n}", email) for n in range(1, 8)]

    assert answers == [202, 202, 429, 429, 429, 429, 429]
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    reasons = [line["reason"] for line in lines if line["event"] == "audit.mail"]
    assert reasons == ["limited by address"] * 5


@pytest.mark.parametrize("email", [ADA, NOBODY])
async def test_mail_bombing_by_registrations_is_bounded_for_an_address(
    limited: FastAPI, email: str
) -> None:
    hiding = limited.state.settings.model_copy(update={"email_verification": "required"})
    async with running_app(hiding) as app:
        answers = []
        for n in range(1, 5):
            async with client_from(app, f"203.0.113.{n}") as client:
                answers.append((await register(client, email)).status_code)

    assert answers == [201, 201, 429, 429]


async def test_mail_bombing_is_bounded_for_a_client_over_all_addresses(limited: FastAPI) -> None:
    answers = [await ask(limited, STRANGER, f"{n}@example.com") for n in range(6)]

    assert answers == [202] * 4 + [429] * 2


async def test_a_stranger_locks_no_owner_out_of_a_new_password(limited: FastAPI) -> None:
    """Neither by using up the limit of the address, nor by replacing the owner's link."""
    assert await ask(limited, HOME) == 202
    owners = link_token((await mails_to(limited, ADA))[-1])
    for n in range(1, 6):
        await ask(limited, f"203.0.113.{n}")

    assert await ask(limited, HOME) == 202
    async with client_from(limited, HOME) as home:
        changed = await post(
            home, "reset-password", token=owners, new_password="another horse battery"
        )
    assert changed.status_code == 204


@pytest.mark.parametrize("token", ["", "A" * 43, "é", "null", "../..", "A" * 257, "%00", "a\0b"])
async def test_an_invented_token_is_refused(client: httpx2.AsyncClient, token: str) -> None:
    for path in ("verify-email", "confirm-email"):
        assert (await post(client, path, token=token)).status_code in (400, 422)


async def test_the_rows_of_the_database_do_not_reset_a_password(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    """A reader of the database, or of a backup, has ids, but not the key that signs them."""
    await register(client, ADA)
    await post(client, "forgot-password", email=ADA)
    async with app.state.db.transaction() as db:
        ids = list(await db.scalars(select(AccountToken.id)))
    for known in ids:
        for form in (str(known), known.hex, known.bytes.hex()):
            answer = await post(client, "verify-email", token=form)
            assert answer.status_code == 400


async def test_a_session_from_before_a_reset_is_not_valid_after_it(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    """Fixation: whoever had a session, or has planted one, loses it; the reset opens none."""
    await register(client, ADA)
    await log_in(client, ADA)
    await post(client, "forgot-password", email=ADA)
    token = link_token((await mails_to(app, ADA))[-1])
    answer = await post(client, "reset-password", token=token, new_password="another horse battery")
    async with app.state.db.transaction() as db:
        active = select(LoginSession.id).where(LoginSession.revoked_at.is_(None))
        assert list(await db.scalars(active)) == []

    assert "set-cookie" not in answer.headers
    assert answer.content == b""


@pytest.mark.parametrize("costs_changed", [False, True])
async def test_a_login_that_began_before_a_reset_opens_no_session_and_keeps_no_old_password(
    app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, costs_changed: bool
) -> None:
    await register(client, ADA)
    await post(client, "forgot-password", email=ADA)
    token = link_token((await mails_to(app, ADA))[-1])
    verify = Passwords.verify

    async def verify_before_a_reset(
        passwords: Passwords, password: SecretStr, stored: str | None
    ) -> tuple[bool, str | None]:
        right, _ = await verify(passwords, password, stored)
        monkeypatch.setattr(Passwords, "verify", verify)
        await post(client, "reset-password", token=token, new_password="another horse battery")
        return right, await passwords.hash(password) if costs_changed else None

    monkeypatch.setattr(Passwords, "verify", verify_before_a_reset)
    assert (await log_in(client, ADA)).status_code == 401
    assert (await log_in(client, ADA)).status_code == 401
    assert (await log_in(client, ADA, "another horse battery")).is_success


async def test_no_token_and_no_address_is_in_the_log(
    app: FastAPI, client: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    await register(client, ADA)
    await post(client, "forgot-password", email=ADA)
    tokens = [link_token(message) for message in await mails_to(app, ADA)]
    await post(client, "verify-email", token=tokens[0])
    await post(client, "reset-password", token=tokens[1], new_password="another horse battery")
    await post(client, "reset-password", token=tokens[1], new_password="another horse battery")
    app.state.access_log.flush()

    output = capfd.readouterr().out
    events = {json.loads(line)["event"] for line in output.splitlines()}
    assert {"audit.verify_email", "audit.reset_password"} <= events
    assert [
        secret for secret in [*tokens, ADA, PASSWORD, "another horse"] if secret in output
    ] == []


async def test_an_account_that_somebody_else_registered_first_is_the_owners_after_a_reset(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    """Pre-hijacking: the attacker's password and sessions end when the owner takes it over."""
    await register(client, ADA, "the attacker's password")
    attacker = await log_in(client, ADA, "the attacker's password")
    await post(client, "forgot-password", email=ADA)
    token = link_token((await mails_to(app, ADA))[-1])
    await post(client, "reset-password", token=token, new_password=PASSWORD)

    assert attacker.is_success
    assert (await log_in(client, ADA, "the attacker's password")).status_code == 401
    assert (await log_in(client, ADA)).is_success
