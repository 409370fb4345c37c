import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, update

from app.platform.auth import audit_log
from app.platform.auth.models import Account, LoginSession
from app.platform.base import signing
from app.settings import Settings
from tests.accounts import log_in, register
from tests.conftest import client_for, running_app
from tests.platform.auth.forged import claims_of

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


async def test_a_login_returns_a_bearer_token_uncached(client: httpx2.AsyncClient) -> None:
    await register(client, EMAIL)
    answer = await log_in(client, EMAIL)

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["token_type"] == "bearer"
    assert answer.json()["expires_in"] == 600


async def test_a_refresh_returns_new_tokens(client: httpx2.AsyncClient, pair: Pair) -> None:
    answer = await refresh(client, pair["refresh_token"])
    second = answer.json()
    third = (await refresh(client, second["refresh_token"])).json()

    assert answer.headers["Cache-Control"] == "no-store"
    assert len({p["refresh_token"] for p in (pair, second, third)}) == 3
    assert len({p["access_token"] for p in (pair, second, third)}) == 3
    assert await is_good(client, third)


async def test_a_repeated_refresh_returns_the_same_tokens(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    first = (await refresh(client, pair["refresh_token"])).json()
    await change(app, refreshed_at=LoginSession.refreshed_at - timedelta(seconds=8))
    expires_at = await expiry(app)
    repeated = (await refresh(client, pair["refresh_token"])).json()

    assert repeated["refresh_token"] == first["refresh_token"]
    assert claims_of(repeated["access_token"]) == claims_of(first["access_token"]) | {
        claim: claims_of(first["access_token"])[claim] - 8 for claim in ("iat", "exp")
    }
    assert repeated["expires_in"] == first["expires_in"] - 8
    assert await expiry(app) == expires_at
    assert audit_lines(capfd) == [("audit.refresh_repeated", None)]
    assert (await refresh(client, first["refresh_token"])).is_success


@pytest.mark.parametrize("case", ["its successor was used", "the interval is over"])
async def test_reuse_of_a_refresh_token_ends_the_session(
    app: FastAPI,
    client: httpx2.AsyncClient,
    pair: Pair,
    case: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    latest = (await refresh(client, pair["refresh_token"])).json()
    if case == "its successor was used":
        latest = (await refresh(client, latest["refresh_token"])).json()
    else:
        await change(app, refreshed_at=LoginSession.refreshed_at - timedelta(seconds=10))
    assert await is_good(client, latest)
    reuse = await refresh(client, pair["refresh_token"])
    after = await refresh(client, latest["refresh_token"])

    assert reuse.status_code == after.status_code == 401
    assert not await is_good(client, latest)
    assert audit_lines(capfd) == [("audit.refresh", "reused"), ("audit.refresh_reused", None)]
    assert await recorded(app) == ["refresh_reused"]
    assert (await log_in(client, EMAIL)).is_success


async def test_a_thief_who_repeats_a_refresh_is_noticed_at_the_next_one(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    owner = (await refresh(client, pair["refresh_token"])).json()
    thief = (await refresh(client, pair["refresh_token"])).json()
    assert thief["refresh_token"] == owner["refresh_token"]
    thief = (await refresh(client, thief["refresh_token"])).json()
    await change(app, refreshed_at=LoginSession.refreshed_at - timedelta(seconds=10))

    assert (await refresh(client, owner["refresh_token"])).status_code == 401
    assert not await is_good(client, thief)


async def test_without_an_interval_a_repeated_refresh_ends_the_session(
    module_settings: Settings,
) -> None:
    strict = module_settings.model_copy(update={"refresh_reuse_interval": 0})
    async with running_app(strict) as app, client_for(app) as client:
        pair = await new_pair(client)
        second = (await refresh(client, pair["refresh_token"])).json()

        assert (await refresh(client, pair["refresh_token"])).status_code == 401
        assert not await is_good(client, second)


@pytest.mark.parametrize("table", [Account, LoginSession])
async def test_a_repeated_refresh_of_an_ended_session_returns_no_tokens(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair, table: Any
) -> None:
    await refresh(client, pair["refresh_token"])
    ended = {"disabled_at": func.now()} if table is Account else {"revoked_at": func.now()}
    async with app.state.db.transaction() as db:
        await db.execute(update(table).values(**ended))

    assert (await refresh(client, pair["refresh_token"])).status_code == 401


def audit_lines(capfd: pytest.CaptureFixture[str]) -> list[tuple[str, str | None]]:
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    audit = [line for line in lines if line["event"].startswith("audit.refresh")]
    assert all(line["client_ip"] == "127.0.0.1" and line["subject"] for line in audit)
    return [(line["event"], line.get("reason")) for line in audit]


async def recorded(app: FastAPI) -> list[str]:
    """The actions in the audit log that have to do with refresh tokens."""
    async with app.state.db.transaction() as db:
        events = await audit_log.list_events(db, 100)
    return [event.action for event in events if "refresh" in event.action]


async def expiry(app: FastAPI) -> datetime:
    async with app.state.db.transaction() as db:
        return (await db.execute(select(LoginSession.expires_at))).scalar_one()


async def test_a_forged_token_does_not_end_the_session(
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
        signing.sign((b"0" * 32,), session_id.bytes + b"0" * 32),
        signing.sign(signing.derive_keys(settings, "access token"), session_id.bytes + b"0" * 32),
        signing.sign(signing.derive_keys(settings, "refresh token"), b"too short"),
        signing.sign(signing.derive_keys(settings, "refresh token"), session_id.bytes + b"0" * 33),
        signing.sign(signing.derive_keys(settings, "refresh token"), uuid4().bytes + b"0" * 32),
    ]

    assert {(await refresh(client, token)).status_code for token in forged} == {401}
    assert await is_good(client, pair)
    assert (await refresh(client, pair["refresh_token"])).is_success


async def change(app: FastAPI, **values: Any) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(update(LoginSession).values(**values))


async def test_a_session_ends_after_its_idle_timeout(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    await change(app, expires_at=func.now() - timedelta(seconds=1))

    assert not await is_good(client, pair)
    assert (await refresh(client, pair["refresh_token"])).status_code == 401


async def test_a_refresh_extends_a_session_up_to_its_maximum_lifetime(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair, settings: Settings
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    await change(app, expires_at=soon)
    second = (await refresh(client, pair["refresh_token"])).json()
    async with app.state.db.transaction() as db:
        extended = await db.scalar(select(LoginSession.expires_at))
    await change(app, ends_at=soon)
    await refresh(client, second["refresh_token"])
    async with app.state.db.transaction() as db:
        capped = await db.scalar(select(LoginSession.expires_at))

    assert extended > soon + timedelta(seconds=settings.session_idle_timeout - 120)
    assert capped == soon


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


async def test_a_login_deletes_expired_sessions(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    await change(app, ends_at=func.now() - timedelta(seconds=1))
    await log_in(client, EMAIL)
    kept = await count_sessions(app)
    await change(
        app,
        ends_at=func.now() - timedelta(seconds=1),
        created_at=func.now() - timedelta(days=30, seconds=1),
    )
    await log_in(client, EMAIL)

    assert kept == 2  # for 30 days, a session tells from where the account has logged in
    assert await count_sessions(app) == 1


async def count_sessions(app: FastAPI) -> int:
    async with app.state.db.transaction() as db:
        return (await db.execute(select(func.count()).select_from(LoginSession))).scalar_one()


@pytest.fixture
async def real_client(fresh_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app whose requests use separate database connections."""
    async with running_app(fresh_settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        yield client


async def test_concurrent_refreshes_return_the_same_tokens(
    real_client: httpx2.AsyncClient,
) -> None:
    pair = await new_pair(real_client)
    # Open all connections first, so that the refreshes meet in the database.
    await asyncio.gather(*(is_good(real_client, pair) for _ in range(50)))
    answers = await asyncio.gather(
        *(refresh(real_client, pair["refresh_token"]) for _ in range(50))
    )

    assert {answer.status_code for answer in answers} == {200}
    tokens = {(a.json()["access_token"], a.json()["refresh_token"]) for a in answers}
    assert len(tokens) == 1
    assert await is_good(real_client, answers[0].json())


async def test_stored_hashes_are_not_usable_as_tokens(
    app: FastAPI, client: httpx2.AsyncClient, pair: Pair
) -> None:
    async with app.state.db.transaction() as db:
        session = (await db.execute(select(LoginSession))).scalar_one()
    secret = signing.verify(
        signing.derive_keys(app.state.settings, "refresh token"), pair["refresh_token"]
    )[16:]

    assert len(secret) == 32
    assert secret not in session.secret_hash
    stolen = signing.sign(
        signing.derive_keys(app.state.settings, "refresh token"),
        session.id.bytes + session.secret_hash,
    )
    assert (await refresh(client, stolen)).status_code == 401


async def test_refresh_tokens_survive_a_rotation_of_the_secret_key(
    module_settings: Settings,
) -> None:
    new = SecretStr(secrets.token_hex(32))
    rotated = module_settings.model_copy(
        update={"secret_key": new, "secret_key_fallbacks": module_settings.secret_key}
    )
    async with running_app(module_settings) as app, client_for(app) as client:
        pair = await new_pair(client)
        second = (await refresh(client, pair["refresh_token"])).json()
    async with running_app(rotated) as app, client_for(app) as client:
        repeated = (await refresh(client, pair["refresh_token"])).json()
        third = (await refresh(client, second["refresh_token"])).json()
        assert repeated["refresh_token"] != second["refresh_token"]  # signed by the new key
        assert await is_good(client, third)
    finished = module_settings.model_copy(update={"secret_key": new})
    async with running_app(finished) as app, client_for(app) as client:
        assert not await is_good(client, second)
        assert await is_good(client, third)
        assert (await refresh(client, third["refresh_token"])).is_success
