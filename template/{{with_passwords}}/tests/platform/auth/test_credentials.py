"""Addresses are confirmed; passwords and addresses are changed, by their owner alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import delete, func, select, text, update

from app.platform.auth import account_tokens
from app.platform.auth.models import Account, AccountToken
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, log_in, post, register
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.mail import link_token, mails_to, plain
from tests.required import REQUIRED

ADA, NEW = "ada@example.com", "ada@example.org"
OTHER_PASSWORD = "another horse battery"
ME = f"{AUTH}/me"


@pytest.fixture
async def ada(client: httpx2.AsyncClient) -> str:
    """The id of an account that exists."""
    account_id: str = (await register(client, ADA)).json()["id"]
    return account_id


async def account(app: FastAPI, email: str = ADA) -> Account:
    async with app.state.db.transaction() as db:
        return (await db.scalars(select(Account).where(Account.email == email))).one()


async def newest_token(app: FastAPI, email: str = ADA) -> str:
    return link_token((await mails_to(app, email))[-1])


async def subjects(app: FastAPI, email: str = ADA) -> list[str]:
    return [message["Subject"].partition(" - ")[0] for message in await mails_to(app, email)]


@asynccontextmanager
async def strict(settings: Settings, **changes: object) -> AsyncIterator[FastAPI]:
    """An app that requires verification, with an empty Redis."""
    used = {"email_verification": "required", **changes}
    async with running_app(settings.model_copy(update=used)) as app:
        await app.state.redis.flushdb()
        yield app


async def test_a_registration_sends_a_link_that_confirms_the_address(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    [message] = await mails_to(app, ADA)
    assert (await account(app)).verified_at is None
    answer = await post(client, "verify-email", token=link_token(message))

    assert message["Subject"].startswith("Confirm your e-mail address")
    assert "http://localhost:8000/verify-email#token=" in plain(message)
    assert answer.status_code == 204
    assert (await account(app)).verified_at is not None


async def test_a_link_to_confirm_can_be_sent_again_until_it_is_confirmed(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    assert (await post(client, "verify-email/send", email=ADA)).status_code == 202
    first, second = [link_token(message) for message in await mails_to(app, ADA)]
    assert (await post(client, "verify-email", token=second)).status_code == 204
    assert (await post(client, "verify-email/send", email=ADA)).status_code == 202

    assert first != second
    assert len(await mails_to(app, ADA)) == 2


async def test_with_required_verification_nobody_logs_in_before_it(
    fresh_settings: Settings,
) -> None:
    async with strict(fresh_settings) as app, client_for(app) as client:
        await register(client, ADA)
        before = await log_in(client, ADA)
        wrong = await log_in(client, ADA, "not the right one")
        await post(client, "verify-email", token=await newest_token(app))
        after = await log_in(client, ADA)

    assert (before.status_code, before.json()["code"]) == (403, "email_not_verified")
    assert wrong.status_code == 401
    assert after.is_success


async def test_with_required_verification_a_registration_tells_nobody_who_has_an_account(
    fresh_settings: Settings,
) -> None:
    async with strict(fresh_settings) as app, client_for(app) as client:
        first = await register(client, ADA)
        second = await register(client, ADA, OTHER_PASSWORD)
        sent = await subjects(app)
        token = await newest_token(app)
        reset = await post(client, "reset-password", token=token, new_password=OTHER_PASSWORD)
        entered = await log_in(client, ADA, OTHER_PASSWORD)

    assert first.status_code == second.status_code == 201
    assert set(first.json()) == set(second.json())
    assert first.json()["email"] == second.json()["email"]
    assert sent == ["Confirm your e-mail address", "You have an account already"]
    assert reset.status_code == 204
    assert entered.is_success  # who reads the mails to an address has confirmed it


async def test_a_forgotten_password_is_replaced_and_every_session_ends(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    headers = await sign_in(client, ADA)
    asked = await post(client, "forgot-password", email=" ADA@example.com ")
    token = await newest_token(app)
    answer = await post(client, "reset-password", token=token, new_password=OTHER_PASSWORD)

    assert (asked.status_code, answer.status_code) == (202, 204)
    assert (await client.get(ME, headers=headers)).status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert (await log_in(client, ADA)).status_code == 401
    assert (await log_in(client, ADA, OTHER_PASSWORD)).is_success
    assert (await subjects(app))[-1] == "Your password was changed"
    assert (await account(app)).verified_at is not None


async def test_a_changed_password_ends_the_other_sessions_and_keeps_this_one(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    here = await sign_in(client, ADA)
    async with client_for(app) as other:
        there = await sign_in(other, ADA)
        wrong = await post(
            client, "change-password", here, password="wrong", new_password=OTHER_PASSWORD
        )
        answer = await post(
            client, "change-password", here, password=PASSWORD, new_password=OTHER_PASSWORD
        )
        others = await other.get(ME, headers=there)

    assert (wrong.status_code, answer.status_code) == (403, 204)
    assert (await client.get(ME, headers=here)).is_success
    assert others.status_code == 401
    assert (await log_in(client, ADA, OTHER_PASSWORD)).is_success
    assert (await subjects(app))[-1] == "Your password was changed"


async def test_an_address_is_changed_once_the_new_one_is_confirmed_and_the_old_one_is_told(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    headers = await sign_in(client, ADA)
    asked = await post(client, "change-email", headers, password=PASSWORD, email=NEW)
    before = (await client.get(ME, headers=headers)).json()["email"]
    token = await newest_token(app, NEW)
    answer = await post(client, "confirm-email", token=token)

    assert (asked.status_code, before, answer.status_code) == (202, ADA, 204)
    assert (await client.get(ME, headers=headers)).json()["email"] == NEW
    assert (await subjects(app))[-1] == "Your e-mail address was changed"
    assert NEW not in plain((await mails_to(app, ADA))[-1])
    assert (await log_in(client, NEW)).is_success
    assert (await log_in(client, ADA)).status_code == 401


async def test_an_address_that_another_account_has_is_not_taken_over(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    headers = await sign_in(client, ADA)
    await post(client, "change-email", headers, password=PASSWORD, email=NEW)
    token = await newest_token(app, NEW)
    await register(client, NEW)
    late = await post(client, "confirm-email", token=token)
    taken = await post(client, "change-email", headers, password=PASSWORD, email=NEW)

    assert late.status_code == 409
    assert taken.status_code == 202
    assert await subjects(app, NEW) == [
        "Confirm your new e-mail address",
        "Confirm your e-mail address",
    ]
    assert (await client.get(ME, headers=headers)).json()["email"] == ADA


@pytest.mark.parametrize("path", ["change-password", "change-email"])
async def test_a_stolen_session_guesses_the_password_a_few_times_only(
    client: httpx2.AsyncClient, ada: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    headers = await sign_in(client, ADA)
    capfd.readouterr()
    body = {"new_password": OTHER_PASSWORD} if path == "change-password" else {"email": NEW}
    answers = [await post(client, path, headers, password=f"guess {n}", **body) for n in range(11)]
    late = await post(client, path, headers, password=PASSWORD, **body)

    assert [answer.status_code for answer in answers] == [403] * 10 + [429]
    assert late.status_code == 429
    logged = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    reasons = [each["reason"] for each in logged if each["event"] == "audit.reauthenticate"]
    assert reasons == ["password"] * 10 + ["limited"] * 2
    assert (await log_in(client, ADA)).is_success  # the owner gets in meanwhile


async def test_a_token_works_once_even_if_it_is_used_many_times_at_once(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()

        async def use(path: str, token: str, **body: str) -> list[httpx2.Response]:
            uses = (post(client, path, token=token, **body) for _ in range(8))
            return await asyncio.gather(*uses)

        await register(client, ADA)
        answers = {"verify-email": await use("verify-email", await newest_token(app))}
        headers = await sign_in(client, ADA)
        await post(client, "change-email", headers, password=PASSWORD, email=NEW)
        answers["confirm-email"] = await use("confirm-email", await newest_token(app, NEW))
        await post(client, "forgot-password", email=NEW)
        token = await newest_token(app, NEW)
        body = {"new_password": OTHER_PASSWORD}
        answers["reset-password"] = await use("reset-password", token, **body)

    for path, given in answers.items():
        assert sorted(each.status_code for each in given) == [204] + [400] * 7, path
        assert {a.json()["code"] for a in given if not a.is_success} == {"invalid_token"}


async def test_a_token_is_bound_to_its_purpose(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    verification = await newest_token(app)
    headers = await sign_in(client, ADA)
    await post(client, "forgot-password", email=ADA)
    reset = await newest_token(app)
    await post(client, "change-email", headers, password=PASSWORD, email=NEW)
    change = await newest_token(app, NEW)

    async def use(path: str, token: str) -> int:
        extra = {"new_password": OTHER_PASSWORD} if path == "reset-password" else {}
        return (await post(client, path, token=token, **extra)).status_code

    paths = {"verify-email": verification, "reset-password": reset, "confirm-email": change}
    wrong = [
        await use(path, token)
        for path, right in paths.items()
        for token in paths.values()
        if token != right
    ]
    assert wrong == [400] * 6
    assert await use("verify-email", verification) == 204


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("forgot-password", "password_reset_lifetime"),
        ("verify-email/send", "email_verification_lifetime"),
    ],
)
async def test_a_link_works_for_as_long_as_its_setting_says(
    app: FastAPI, client: httpx2.AsyncClient, ada: str, path: str, setting: str
) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(delete(AccountToken))
    assert (await post(client, path, email=ADA)).status_code == 202
    async with app.state.db.transaction() as db:
        expires_at = (await db.scalars(select(AccountToken.expires_at))).one()
    lifetime = (expires_at - datetime.now(UTC)).total_seconds()
    assert lifetime == pytest.approx(getattr(app.state.settings, setting), abs=300)


async def test_a_token_expires_and_old_ones_are_deleted(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    await post(client, "forgot-password", email=ADA)
    token = await newest_token(app)
    async with app.state.db.transaction() as db:
        await db.execute(update(AccountToken).values(expires_at=func.now()))
    answer = await post(client, "reset-password", token=token, new_password=OTHER_PASSWORD)
    await post(client, "forgot-password", email=ADA)
    async with app.state.db.transaction() as db:
        left = await db.scalar(select(func.count()).select_from(AccountToken))

    assert answer.status_code == 400
    assert left == 1


async def test_a_request_for_a_link_waits_for_no_other_one(fresh_settings: Settings) -> None:
    """Each deletes tokens that have expired."""
    async with running_app(fresh_settings) as app:
        db = app.state.db
        async with db.transaction() as session:
            await account_tokens.issue(session, None, "reset_password", ADA, -10)
        async with db.engine.begin() as other, db.transaction() as session:
            await other.execute(select(AccountToken.id).with_for_update())
            await session.execute(text("SET LOCAL lock_timeout = '1s'"))
            await account_tokens.issue(session, None, "reset_password", ADA, 100)


@pytest.mark.parametrize("change", ["password", "address"])
async def test_a_change_of_password_or_address_makes_older_links_useless(
    app: FastAPI, client: httpx2.AsyncClient, ada: str, change: str
) -> None:
    headers = await sign_in(client, ADA)
    await post(client, "forgot-password", email=ADA)
    token = await newest_token(app)
    if change == "password":
        body = {"password": PASSWORD, "new_password": OTHER_PASSWORD}
        await post(client, "change-password", headers, **body)
    else:
        await post(client, "change-email", headers, password=PASSWORD, email=NEW)
        await post(client, "confirm-email", token=await newest_token(app, NEW))
    answer = await post(client, "reset-password", token=token, new_password="a third horse battery")

    assert answer.status_code == 400


async def test_a_disabled_account_gets_no_link_and_its_links_do_not_work(
    app: FastAPI, client: httpx2.AsyncClient, ada: str
) -> None:
    await post(client, "forgot-password", email=ADA)
    reset = await newest_token(app)
    verification = link_token((await mails_to(app, ADA))[0])
    async with app.state.db.transaction() as db:
        await db.execute(update(Account).values(disabled_at=func.now()))
    await post(client, "forgot-password", email=ADA)
    used = await post(client, "reset-password", token=reset, new_password=OTHER_PASSWORD)
    verified = await post(client, "verify-email", token=verification)

    assert len(await mails_to(app, ADA)) == 2
    assert (used.status_code, verified.status_code) == (400, 400)


def test_production_requires_a_mail_server_to_require_verification() -> None:
    required = {name.lower(): value for name, value in REQUIRED.items()}
    with pytest.raises(ValueError, match="needs SMTP_URL"):
        Settings(**required, email_verification="required")  # type: ignore[arg-type]
