"""The owner's sessions and data: listed, ended, exported, deleted."""

from collections.abc import AsyncIterator, Callable
from unittest.mock import AsyncMock, patch

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL

from app.platform.auth.auth_cache import AuthCache
from app.platform.auth.models import Account, AccountToken, LoginSession
from app.platform.base.errors import Unavailable
from app.platform.data.replica import Replica
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, log_in, post, register
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.mail import mails_to, plain

ALICE = "alice@example.com"
SESSIONS, EXPORT, ME = f"{AUTH}/sessions", f"{AUTH}/export", f"{AUTH}/me"


async def test_the_sessions_of_an_account_are_listed_and_ended_one_by_one(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with client_for(app) as elsewhere:
        elsewhere.headers["User-Agent"] = "Elsewhere/1.0"
        elsewhere.headers.update(await sign_in(elsewhere, ALICE))
        listed = await alice.get(SESSIONS)
        other, own = sorted(listed.json(), key=lambda each: bool(each["current"]))
        ended = await alice.delete(f"{SESSIONS}/{other['id']}")
        again = await alice.delete(f"{SESSIONS}/{other['id']}")
        statuses = [(await each.get(ME)).status_code for each in (alice, elsewhere, bob)]

    assert (other["user_agent"], other["current"], own["current"]) == ("Elsewhere/1.0", False, True)
    assert listed.headers["Cache-Control"] == "no-store"
    assert (ended.status_code, again.status_code) == (204, 404)
    assert statuses == [200, 401, 200]
    assert [each["id"] for each in (await alice.get(SESSIONS)).json()] == [own["id"]]


async def test_a_new_account_is_there_before_the_standby_has_it(
    module_settings: Settings, create_database: Callable[..., URL], migrated_template: str
) -> None:
    """The standby is a database of its own, to which nothing is copied."""
    standby = create_database(migrated_template).render_as_string(hide_password=False)
    settings = module_settings.model_copy(update={"database_replica_url": SecretStr(standby)})
    with patch.object(Replica, "_follow", AsyncMock()):
        async with running_app(settings) as app, client_for(app) as client:
            app.state.replica.current_at = float("inf")
            client.headers.update(await sign_in(client, "new@example.com"))
            assert app.state.replica.reads is not app.state.read_session
            answers = [await client.get(path) for path in (ME, EXPORT, SESSIONS)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [each["current"] for each in answers[2].json()] == [True]


async def test_nobody_sees_or_ends_the_sessions_of_another_account(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    [own] = (await alice.get(SESSIONS)).json()
    answer = await bob.delete(f"{SESSIONS}/{own['id']}")

    assert answer.status_code == 404
    assert own["id"] not in (await bob.get(SESSIONS)).text
    assert (await alice.get(ME)).is_success


async def test_an_export_has_the_account_and_its_sessions_and_no_secrets(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    answer = await alice.get(EXPORT)
    data = answer.json()

    assert answer.headers["Cache-Control"] == "no-store"
    assert data["account"]["email"] == ALICE
    assert [each["current"] for each in data["sessions"]] == [True]
    assert "$argon2" not in answer.text
    assert "hash" not in answer.text


async def test_a_deleted_account_leaves_nothing_and_its_address_is_free(
    app: FastAPI, client: httpx2.AsyncClient, alice: httpx2.AsyncClient
) -> None:
    await post(client, "forgot-password", email=ALICE)
    wrong = await post(alice, "delete-account", password="wrong")
    deleted = await post(alice, "delete-account", password=PASSWORD)
    async with app.state.db.transaction() as db:
        left = [
            await db.scalar(select(func.count()).select_from(table))
            for table in (Account, LoginSession, AccountToken)
        ]
    [message] = await mails_to(app, ALICE)

    assert (wrong.status_code, deleted.status_code) == (403, 204)
    assert left == [0, 0, 0]
    assert message["Subject"].startswith("Your account was deleted")
    assert (await alice.get(ME)).status_code == 401
    assert (await log_in(client, ALICE)).status_code == 401
    assert (await register(client, ALICE)).status_code == 201


async def test_a_cached_caller_reads_nothing_of_a_deleted_account(
    app: FastAPI, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(app.state)["_state"], "auth_cache", AuthCache(max_age=600))
    assert (await alice.get(ME)).is_success
    await post(alice, "delete-account", password=PASSWORD)
    statuses = [(await alice.get(path)).status_code for path in (ME, EXPORT)]
    assert statuses == [401, 401]


async def test_an_account_is_deleted_with_all_of_its_data_or_not_at_all(
    app: FastAPI, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        async def export_data(self, *_: object) -> None: ...

        async def delete_data(self, *_: object) -> None:
            raise Unavailable("The archive is not available.")

    monkeypatch.setattr("app.platform.auth.own_data.features", lambda: {"failing": Failing()})
    answer = await post(alice, "delete-account", password=PASSWORD)

    assert answer.status_code == 503
    assert (await alice.get(ME)).is_success


@pytest.fixture
async def committing_app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_app(module_settings) as app:
        await app.state.redis.flushdb()
        async with app.state.db.transaction() as db:
            await db.execute(text("DELETE FROM accounts"))
            await db.execute(text("DELETE FROM mails"))
        yield app


async def log_in_from(app: FastAPI, address: str, agent: str = "Test/1.0") -> None:
    transport = httpx2.ASGITransport(app, client=(address, 12345))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["User-Agent"] = agent
        (await log_in(client, ALICE)).raise_for_status()


async def test_a_login_from_a_new_client_is_reported_and_from_a_known_one_is_not(
    committing_app: FastAPI,
) -> None:
    async with client_for(committing_app) as client:
        await register(client, ALICE)
    for address in ("192.0.2.1", "192.0.2.1", "203.0.113.1", "203.0.113.1", "2001:db8::1"):
        await log_in_from(committing_app, address, "<b>Evil</b>\u202e/1.0")
    notices = (await mails_to(committing_app, ALICE))[1:]

    assert [message["Subject"].partition(" - ")[0] for message in notices] == [
        "A login from a new place",
        "A login from a new place",
    ]
    assert "from 203.0.113.1, with <b>Evil</b>" in plain(notices[0])
    assert "<b>" not in str(notices[0].get_body(("html",)))


async def test_notices_of_logins_can_be_switched_off(module_settings: Settings) -> None:
    quiet = module_settings.model_copy(update={"login_notices": False})
    async with running_app(quiet) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        async with app.state.db.transaction() as db:
            await db.execute(text("DELETE FROM accounts"))
            await db.execute(text("DELETE FROM mails"))
        await register(client, ALICE)
        for address in ("192.0.2.1", "203.0.113.1"):
            await log_in_from(app, address)

        assert len(await mails_to(app, ALICE)) == 1
