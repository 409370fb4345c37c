import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, update

from app.auth.models import Account, LoginSession
from app.platform.base import signing
from app.settings import Settings
from tests.accounts import log_in, register
from tests.conftest import client_for, running_app

EMAIL = "ada@example.com"
Pair = dict[str, Any]


async def new_pair(client: httpx2.AsyncClient) -> Pair:
    await register(client, EMAIL)
    pair: Pair = (await log_in(client, EMAIL)).json()
    return pair


async def refresh(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": token})


async def is_good(client: httpx2.AsyncClient, pair: Pair) -> bool:
    headers = {"Authorization": f"Bearer {pair['access_token']}"}
    return (await client.get("/api/v1/auth/me", headers=headers)).is_success


@pytest.fixture
async def pair(client: httpx2.AsyncClient) -> Pair:
    return await new_pair(client)


async def test_tokens_are_for_bearers_and_not_for_caches(client: httpx2.AsyncClient) -> None:
    await register(client, EMAIL)
    answer = await log_in(client, EMAIL)

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["token_type"] == "bearer"
    assert answer.json()["expires_in"] == 600


async def test_a_refresh_token_is_traded_for_new_tokens(
    client: httpx2.AsyncClient, pair: Pair
) -> None:
    answer = await refresh(client, pair["refresh_token"])
    second = answer.json()
    third = (await refresh(client, second["refresh_token"])).json()

    assert answer.headers["Cache-Control"] == "no-store"
    assert len({p["refresh_token"] for p in (pair, second, third)}) == 3
    assert len({p["access_token"] for p in (pair, second, third)}) == 3
    assert await is_good(client, third)


async def test_a_replayed_token_ends_the_session_for_thief_and_owner_alike(
    client: httpx2.AsyncClient, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    second = (await refresh(client, pair["refresh_token"])).json()
    assert await is_good(client, second)
    replay = await refresh(client, pair["refresh_token"])
    after = await refresh(client, second["refresh_token"])

    assert replay.status_code == after.status_code == 401
    assert not await is_good(client, second)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    audit = [line for line in lines if line["event"] == "audit.refresh"]
    assert [(line["reason"], line["client_ip"]) for line in audit] == [("reused", "127.0.0.1")]
    assert (await log_in(client, EMAIL)).is_success


async def test_a_token_that_was_never_issued_harms_nobody(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair, settings: Settings
) -> None:
    async with app.state.db.transaction() as db:
        session_id = await db.scalar(select(LoginSession.id))
    forged = [
        "garbage",
        "",
        "é",
        pair["access_token"][:256],
        pair["refresh_token"][:-1],
        signing.sign(b"0" * 32, session_id.bytes + b"0" * 32),
        signing.sign(signing.derive_key(settings, "access token"), session_id.bytes + b"0" * 32),
        signing.sign(signing.derive_key(settings, "refresh token"), b"too short"),
        signing.sign(signing.derive_key(settings, "refresh token"), uuid4().bytes + b"0" * 32),
    ]

    assert {(await refresh(client, token)).status_code for token in forged} == {401}
    assert await is_good(client, pair)
    assert (await refresh(client, pair["refresh_token"])).is_success


async def change(app: FastAPI, **values: Any) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(update(LoginSession).values(**values))


async def test_a_session_ends_when_it_is_not_used(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    await change(app, expires_at=func.now() - timedelta(seconds=1))

    assert not await is_good(client, pair)
    assert (await refresh(client, pair["refresh_token"])).status_code == 401


async def test_use_keeps_a_session_but_never_past_its_end(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair, settings: Settings
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    await change(app, expires_at=soon)
    second = (await refresh(client, pair["refresh_token"])).json()
    async with app.state.db.transaction() as db:
        moved_on = await db.scalar(select(LoginSession.expires_at))
    await change(app, ends_at=soon)
    await refresh(client, second["refresh_token"])
    async with app.state.db.transaction() as db:
        at_the_end = await db.scalar(select(LoginSession.expires_at))

    assert moved_on > soon + timedelta(seconds=settings.session_idle_timeout - 120)
    assert at_the_end == soon


async def test_a_disabled_account_gets_no_new_tokens(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(update(Account).values(disabled_at=func.now()))

    assert (await refresh(client, pair["refresh_token"])).status_code == 401


async def test_a_logged_out_session_gets_no_new_tokens(
    client: httpx2.AsyncClient, pair: Pair
) -> None:
    headers = {"Authorization": f"Bearer {pair['access_token']}"}
    await client.post("/api/v1/auth/logout", headers=headers)

    assert (await refresh(client, pair["refresh_token"])).status_code == 401


async def test_sessions_that_are_over_are_forgotten_at_the_next_login(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    await change(app, ends_at=func.now() - timedelta(seconds=1))
    await log_in(client, EMAIL)
    async with app.state.db.transaction() as db:
        left = await db.scalar(select(func.count()).select_from(LoginSession))

    assert left == 1


@pytest.fixture
async def real_client(fresh_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller of an app whose requests have connections of their own."""
    async with running_app(fresh_settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        yield client


async def test_of_200_refreshes_at_once_one_wins(real_client: httpx2.AsyncClient) -> None:
    pair = await new_pair(real_client)
    # Open all connections first: the 200 are to meet in the database, not to wait for it.
    await asyncio.gather(*(is_good(real_client, pair) for _ in range(50)))
    answers = await asyncio.gather(
        *(refresh(real_client, pair["refresh_token"]) for _ in range(200))
    )

    assert sorted(answer.status_code for answer in answers) == [200] + 199 * [401]
    # Nobody can tell which of the 200 was the owner, so the winner doesn't keep it.
    winner = next(answer.json() for answer in answers if answer.is_success)
    assert not await is_good(real_client, winner)


async def test_nothing_that_is_stored_can_be_used(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    async with app.state.db.transaction() as db:
        session = (await db.execute(select(LoginSession))).scalar_one()
    secret = signing.verify(
        signing.derive_key(app.state.settings, "refresh token"), pair["refresh_token"]
    )[16:]

    assert len(secret) == 32
    assert secret not in session.secret_hash
    stolen = signing.sign(
        signing.derive_key(app.state.settings, "refresh token"),
        session.id.bytes + session.secret_hash,
    )
    assert (await refresh(client, stolen)).status_code == 401
