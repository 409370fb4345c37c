"""Keys: their format, their stored hash and the time of their last use."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import Row, select, text, update

from app.auth import CurrentUser
from app.platform.auth import key_format
from app.platform.auth.models import ApiKey
from app.platform.data.database import SessionDep
from app.settings import Settings
from tests.actors import key_in, sign_in
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"


async def stored(app: FastAPI, key: str) -> Row[tuple[bytes, datetime | None]]:
    async with app.state.db.transaction() as db:
        columns = select(ApiKey.hash, ApiKey.last_used_at)
        return (await db.execute(columns.where(ApiKey.id == key_format.parse_id(key)))).one()


async def test_keys_have_the_documented_format_and_are_random(alice: httpx2.AsyncClient) -> None:
    keys = [key_format.generate("key") for _ in range(50)] + [("", key_in(alice.headers))]

    assert len({text for _, text in keys}) == len({text[21:73] for _, text in keys}) == 51
    assert all(re.fullmatch(r"key_[0-9a-f]{16}_[a-z2-7]{52}[0-9a-f]{8}", text) for _, text in keys)


def test_a_secret_encodes_256_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda n: b"\xff" * n)
    _, ones = key_format.generate("key")
    monkeypatch.setattr("secrets.token_bytes", lambda n: b"\xff" * (n - 1) + b"\xfe")
    _, last_bit_differs = key_format.generate("key")

    assert ones[21:73] == "7" * 51 + "q"
    assert ones[21:73] != last_bit_differs[21:73]


async def test_a_mistyped_key_costs_no_query(
    fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        app.state.read_session = None  # so that a query would fail
        good = headers["Authorization"]
        mistyped = [good[:40] + ("a" if good[40] != "a" else "b") + good[41:]]
        mistyped.append(good[:-1] + ("0" if good[-1] != "0" else "1"))
        answers = [await client.get(ME, headers={"Authorization": key}) for key in mistyped]

    assert [answer.status_code for answer in answers] == [401, 401]


async def test_the_stored_hash_does_not_contain_the_key(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    key = key_in(alice.headers)
    row = await stored(app, key)

    assert len(row.hash) == 32
    assert key.encode() not in row.hash


async def test_last_used_at_is_updated_once_a_minute(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    key = key_in(alice.headers)
    assert (await stored(app, key)).last_used_at is None
    await alice.get(ME)
    first = (await stored(app, key)).last_used_at
    await alice.get(ME)
    second = (await stored(app, key)).last_used_at
    async with app.state.db.transaction() as db:
        earlier = datetime.now(UTC) - timedelta(seconds=61)
        await db.execute(update(ApiKey).values(last_used_at=earlier))
    await alice.get(ME)
    third = (await stored(app, key)).last_used_at

    assert first == second
    assert first
    assert third
    assert third > earlier + timedelta(seconds=60)


async def test_a_use_is_recorded_with_the_connection_that_its_request_has(
    fresh_settings: Settings,
) -> None:
    async def use_session(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))

    async def answer(user: CurrentUser) -> str:
        return user.credential

    one = fresh_settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0})
    async with running_app(one) as app, client_for(app) as client:
        app.router.add_api_route("/used", answer, dependencies=[Depends(use_session)])
        headers = await sign_in(client, "alice@example.com")
        answers = await asyncio.gather(*(client.get("/used", headers=headers) for _ in range(4)))
        used_at = (await stored(app, key_in(headers))).last_used_at

    assert {answer.status_code for answer in answers} == {200}
    assert used_at


async def test_a_request_does_not_wait_for_another_one_that_records_the_use(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        async with app.state.db.transaction() as db, asyncio.timeout(5):
            await db.execute(update(ApiKey).values(last_used_at=None))
            assert (await client.get(ME, headers=headers)).is_success


async def test_a_use_is_recorded_while_a_transaction_refers_to_the_key(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        async with app.state.db.transaction() as db:
            await db.execute(update(ApiKey).values(last_used_at=None))
        async with app.state.db.transaction() as db:
            await db.execute(select(ApiKey.id).with_for_update(read=True, key_share=True))
            assert (await client.get(ME, headers=headers)).is_success
        used_at = (await stored(app, key_in(headers))).last_used_at

    assert used_at


async def test_concurrent_uses_of_a_key_all_succeed(fresh_settings: Settings) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        answers = await asyncio.gather(*(client.get(ME) for _ in range(40)))

    assert {answer.status_code for answer in answers} == {200}


async def test_keys_stay_valid_when_the_prefix_changes(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        old = await sign_in(client, "alice@example.com")
    renamed = fresh_settings.model_copy(update={"api_key_prefix": "acme"})
    async with running_app(renamed) as app, client_for(app) as client:
        new = await sign_in(client, "alice@example.com")
        answers = [await client.get(ME, headers=headers) for headers in (old, new)]

    assert key_in(new).startswith("acme_")
    assert [answer.status_code for answer in answers] == [200, 200]
