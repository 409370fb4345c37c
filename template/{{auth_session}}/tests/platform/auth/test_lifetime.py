"""The lifetime of sessions: use extends it, up to a maximum."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import func, select, text, update

from app.auth import CurrentUser
from app.platform.auth.models import LoginSession
from app.platform.data.database import SessionDep
from app.settings import Settings
from tests.accounts import AUTH, allow
from tests.actors import sign_in
from tests.conftest import client_for, running_app

ME = f"{AUTH}/me"
Ends = Callable[..., Awaitable[tuple[datetime, datetime]]]


@pytest.fixture
async def ends(app: FastAPI, alice: httpx2.AsyncClient) -> Ends:
    """Reads or changes the two expiry times of Alice's session."""

    async def ends(**values: Any) -> tuple[datetime, datetime]:
        async with app.state.db.transaction() as db:
            if values:
                await db.execute(update(LoginSession).values(**values))
            row = (await db.execute(select(LoginSession.expires_at, LoginSession.ends_at))).one()
        return row.expires_at, row.ends_at

    return ends


async def test_a_session_has_the_configured_lifetime(
    settings: Settings, alice: httpx2.AsyncClient, ends: Ends
) -> None:
    idle, age = await ends()
    now = datetime.now(UTC)

    assert abs(idle - now - timedelta(seconds=settings.session_idle_timeout)) < timedelta(minutes=5)
    assert abs(age - now - timedelta(seconds=settings.session_lifetime)) < timedelta(minutes=5)


async def test_use_extends_a_session(
    settings: Settings, alice: httpx2.AsyncClient, ends: Ends
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=120)
    await ends(expires_at=soon)
    assert (await alice.get(ME)).is_success
    extended, _ = await ends()

    assert extended > soon + timedelta(seconds=settings.session_idle_timeout - 600)


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
        soon = datetime.now(UTC) + timedelta(seconds=120)
        async with app.state.db.transaction() as db:
            await db.execute(update(LoginSession).values(expires_at=soon))
        answers = await asyncio.gather(*(client.get("/used", headers=headers) for _ in range(4)))
        row = await app.state.read_session.first(select(LoginSession.expires_at))

    assert {answer.status_code for answer in answers} == {200}
    assert row.expires_at > soon


async def test_a_request_does_not_wait_for_another_one_that_records_the_use(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        soon = datetime.now(UTC) + timedelta(seconds=120)
        async with app.state.db.transaction() as db:
            await db.execute(update(LoginSession).values(expires_at=soon))
        async with app.state.db.transaction() as db, asyncio.timeout(5):
            await db.execute(update(LoginSession).values(expires_at=soon))
            assert (await client.get(ME, headers=headers)).is_success


async def test_a_use_is_recorded_while_a_transaction_refers_to_the_session(
    fresh_settings: Settings,
) -> None:
    async with running_app(fresh_settings) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        soon = datetime.now(UTC) + timedelta(seconds=120)
        async with app.state.db.transaction() as db:
            await db.execute(update(LoginSession).values(expires_at=soon))
        async with app.state.db.transaction() as db:
            await db.execute(select(LoginSession.id).with_for_update(read=True, key_share=True))
            assert (await client.get(ME, headers=headers)).is_success
        row = await app.state.read_session.first(select(LoginSession.expires_at))

    assert row.expires_at > soon


async def test_use_is_not_recorded_at_each_request(alice: httpx2.AsyncClient, ends: Ends) -> None:
    before = await ends()
    for _ in range(3):
        assert (await alice.get(ME)).is_success

    assert await ends() == before


async def test_use_does_not_extend_a_session_beyond_its_maximum_lifetime(
    alice: httpx2.AsyncClient, ends: Ends
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=300)
    await ends(expires_at=soon - timedelta(seconds=100), ends_at=soon)
    assert (await alice.get(ME)).is_success
    expires_at, _ = await ends()
    assert expires_at == soon
    await ends(expires_at=func.now() - timedelta(seconds=1))

    assert (await alice.get(ME)).status_code == 401


async def test_a_session_has_the_current_scopes_of_its_account(
    app: FastAPI, alice: httpx2.AsyncClient
) -> None:
    await allow(app, "alice@example.com", "admin")
    before = (await alice.get(ME)).json()["scopes"]
    await allow(app, "alice@example.com")

    assert (before, (await alice.get(ME)).json()["scopes"]) == (["admin"], [])
