"""Administration: the commands, and the effect of each on the next request."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.auth import User, require
from app.platform.auth import users
from app.platform.auth.audit_log import Actor
from app.platform.auth.models import Account
from app.platform.base.errors import Conflict
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, register
from tests.actors import sign_in
from tests.commands import CommandResult, run_command
from tests.conftest import client_for, running_app
from tests.mail import mails_to

ADA, BOB = "ada@example.com", "bob@example.com"
ME = f"{AUTH}/me"
GUARDED = "/api/v1/guarded"


@pytest.fixture
async def app(fresh_settings: Settings) -> AsyncIterator[FastAPI]:
    async def guarded(user: Annotated[User, require("admin")]) -> str:
        return user.id

    async with running_app(fresh_settings) as app:
        await app.state.redis.flushdb()
        app.add_api_route(GUARDED, guarded)
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


def command(env: dict[str, str], *arguments: str) -> CommandResult:
    return run_command("users", *arguments, env=env)


def done(env: dict[str, str], *arguments: str) -> str:
    result = command(env, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


async def test_the_first_administrator_is_made_by_a_command(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    assert command(environment, "list").stderr == "There are no such users.\n"
    made = done(environment, "create", "Ada@example.com", "--role", "admin", "--password", PASSWORD)

    answer = await client.get(GUARDED, headers=await sign_in(client, ADA))
    assert (answer.status_code, answer.json()) == (200, made.strip())
    assert f"{made.strip()}  {ADA}  admin  enabled, sessions: 1" in done(environment, "list")


def test_a_common_password_is_refused(environment: dict[str, str]) -> None:
    refused = command(environment, "create", ADA, "--role", "admin", "--password", "Password-2026!")
    assert refused.returncode != 0
    assert "common" in refused.stderr


async def test_a_role_is_given_and_taken_at_the_next_request(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    done(environment, "create", BOB, "--role", "admin", "--password", PASSWORD)
    headers = await sign_in(client, ADA)
    seen = [(await client.get(GUARDED, headers=headers)).status_code]
    for change in ("grant", "revoke"):
        done(environment, change, ADA, "admin")
        seen.append((await client.get(GUARDED, headers=headers)).status_code)

    assert seen == [403, 200, 403]


async def test_a_role_that_a_later_login_saw_is_taken_at_the_next_request(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    done(environment, "create", BOB, "--role", "admin", "--password", PASSWORD)
    done(environment, "create", ADA, "--role", "admin", "--password", PASSWORD)
    headers = await sign_in(client, ADA)
    assert (await client.get(GUARDED, headers=headers)).status_code == 200
    done(environment, "revoke", ADA, "admin")

    assert (await client.get(GUARDED, headers=headers)).status_code == 403


@pytest.mark.parametrize("task", ["disable", "end-sessions", "reset-password"])
async def test_sessions_end_at_the_next_request(
    app: FastAPI, client: httpx2.AsyncClient, environment: dict[str, str], task: str
) -> None:
    headers = await sign_in(client, ADA)
    before = await client.get(ME, headers=headers)
    done(environment, task, ADA)

    assert (before.status_code, (await client.get(ME, headers=headers)).status_code) == (200, 401)
    mails = await mails_to(app, ADA)  # the first one confirms the address
    assert len(mails) == (2 if task == "reset-password" else 1)


async def test_a_disabled_user_logs_in_again_once_enabled(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    await register(client, ADA)
    done(environment, "disable", ADA)
    with pytest.raises(httpx2.HTTPStatusError):
        await sign_in(client, ADA)
    assert "disabled 20" in done(environment, "show", ADA)
    assert "is disabled" in command(environment, "reset-password", ADA).stderr
    done(environment, "enable", ADA)

    assert (await client.get(ME, headers=await sign_in(client, ADA))).status_code == 200


async def test_each_change_is_in_the_audit_log_once(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    done(environment, "create", BOB, "--role", "admin", "--password", PASSWORD)
    made = done(environment, "create", ADA, "--password", PASSWORD).strip()
    for arguments in (
        ["grant", ADA, "admin"],
        ["grant", ADA, "admin"],  # changes nothing
        ["revoke", ADA, "admin"],
        ["disable", ADA],
        ["enable", ADA],
        ["end-sessions", ADA],
        ["reset-password", ADA],
    ):
        done(environment, *arguments)

    log = [line.split("  ") for line in done(environment, "audit").splitlines()]
    assert [line[3] for line in reversed(log) if line[4] == made] == [
        "user_create",
        "role_grant",
        "role_revoke",
        "user_disable",
        "user_enable",
        "user_end_sessions",
        "user_reset_password",
    ]
    assert all(line[2].startswith("command:") for line in log)
    older = done(environment, "audit", "--before", log[0][0]).splitlines()
    assert len(older) == len(log) - 1
    assert len(done(environment, "show", made).splitlines()) == 8


@pytest.mark.parametrize("change", [["revoke", ADA, "admin"], ["disable", ADA]])
async def test_the_last_administrator_stays(environment: dict[str, str], change: list[str]) -> None:
    done(environment, "create", ADA, "--role", "admin", "--password", PASSWORD)
    done(environment, "create", BOB, "--password", PASSWORD)
    refused = command(environment, *change)

    assert refused.returncode == 1
    assert "the last administrator" in refused.stderr
    assert "admin  enabled" in done(environment, "show", ADA)
    assert "user_disable" not in done(environment, "audit")


async def test_the_last_administrator_does_not_delete_their_account(
    client: httpx2.AsyncClient, environment: dict[str, str]
) -> None:
    done(environment, "create", ADA, "--role", "admin", "--password", PASSWORD)
    headers = await sign_in(client, ADA)
    body = {"password": PASSWORD}
    refused = await client.post(f"{AUTH}/delete-account", headers=headers, json=body)
    done(environment, "create", BOB, "--role", "admin", "--password", PASSWORD)
    deleted = await client.post(f"{AUTH}/delete-account", headers=headers, json=body)

    assert (refused.status_code, deleted.status_code) == (409, 204)


async def test_an_address_is_found_in_each_form_of_unicode(
    app: FastAPI, environment: dict[str, str]
) -> None:
    composed, decomposed = (unicodedata.normalize(f, "zoé@example.com") for f in ("NFC", "NFD"))
    created = done(environment, "create", composed, "--password", PASSWORD)
    assert created.strip() in done(environment, "show", decomposed)
    async with app.state.db.transaction() as db:
        by_email = users.LISTING.filters["email"]
        listed = select(Account.id).where(by_email.compare(Account.email, decomposed))
        assert await db.scalar(listed) == await users.find(db, composed)


async def test_of_two_administrators_that_are_removed_at_once_one_stays(
    app: FastAPI, environment: dict[str, str]
) -> None:
    for email in (ADA, BOB):
        done(environment, "create", email, "--role", "admin", "--password", PASSWORD)
    both_are_there = asyncio.Barrier(2)

    async def remove(email: str) -> bool:
        async with app.state.db.transaction() as db:
            user_id: UUID = await users.find(db, email)
            await both_are_there.wait()
            try:
                await users.disable(db, Actor("test"), user_id)
            except Conflict:
                return False
            return True

    removed = await asyncio.gather(*map(remove, (ADA, BOB)))

    assert sorted(removed) == [False, True]
    assert len(done(environment, "list", "--role", "admin").splitlines()) == 2
    assert done(environment, "list", "--role", "admin").count("admin  enabled") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "ada", "--password", PASSWORD], "email: "),
        (["create", ADA, "--password", "short"], "password: "),
        (["grant", ADA, "king"], "'king' is not"),
        (["show", ADA], f"There is no user {ADA}; see `app users list`."),
        (["disable", "7"], "7 is neither an e-mail address nor an id."),
    ],
)
def test_invalid_arguments_are_refused_with_a_reason(
    environment: dict[str, str], arguments: list[str], message: str
) -> None:
    result = command(environment, *arguments)

    assert result.returncode != 0
    assert message in result.stderr
