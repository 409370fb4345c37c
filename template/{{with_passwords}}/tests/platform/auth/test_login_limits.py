"""Limits on password guessing: an attacker is bounded, and locks no owner out."""

import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, update

from app.platform.auth.models import LoginSession
from app.platform.settings.rates import Rate
from app.settings import Settings
from tests.accounts import PASSWORD, log_in, register
from tests.conftest import client_for, running_app

EMAIL = "ada@example.com"
WRONG_PASSWORD = "not the right one"
HOME, CAFE, STRANGER = "192.0.2.1", "198.51.100.1", "203.0.113.1"
LIMITS = {
    "login_limit_client": Rate(5, 900),
    "login_limit_account_client": Rate(3, 900),
    "login_limit_account": Rate(7, 900),
}
WITHOUT_REDIS = {"redis_url": SecretStr("redis://127.0.0.1:1/0")}


@pytest.fixture
async def app(request: pytest.FixtureRequest, module_settings: Settings) -> AsyncIterator[FastAPI]:
    """Limits of five attempts per client, three per account and client, seven per account.

    The account exists, and its owner has logged in from ``HOME``: six attempts on it are left.
    """
    changes = LIMITS | getattr(request, "param", {})
    async with running_app(module_settings.model_copy(update=changes)) as app:
        if changes == LIMITS:
            await app.state.redis.flushdb()
        async with client_for(app) as client:
            await register(client, EMAIL)
        async with app.state.db.transaction() as db:
            await db.execute(update(LoginSession).values(client_hash=None))
        assert await attempt(app, HOME, PASSWORD) == 200
        yield app


async def log_in_from(
    app: FastAPI, address: str, password: str, email: str = EMAIL
) -> httpx2.Response:
    transport = httpx2.ASGITransport(app, client=(address, 12345))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await log_in(client, email, password)


def is_about(response: httpx2.Response, seconds: int) -> bool:
    """Whether a client has to wait about ``seconds``: limits refill while a test runs."""
    return int(response.headers["Retry-After"]) == pytest.approx(seconds, rel=0.1)


async def attempt(
    app: FastAPI, address: str, password: str = WRONG_PASSWORD, email: str = EMAIL
) -> int:
    return (await log_in_from(app, address, password, email)).status_code


async def test_a_client_is_limited_over_all_accounts(app: FastAPI) -> None:
    answers = [
        await log_in_from(app, STRANGER, WRONG_PASSWORD, f"{number}@example.com")
        for number in range(6)
    ]

    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert is_about(answers[-1], 180)


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
async def test_a_client_is_limited_per_account(app: FastAPI, email: str) -> None:
    answers = [await log_in_from(app, STRANGER, WRONG_PASSWORD, email) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert is_about(answers[-1], 300)
    assert await attempt(app, STRANGER, PASSWORD, email) == 429
    assert await attempt(app, "2001:db8::1", email="other@example.com") == 401


async def test_a_stranger_at_one_address_does_not_lock_the_owner_out(app: FastAPI) -> None:
    while await attempt(app, STRANGER) != 429:
        pass

    assert await attempt(app, HOME, PASSWORD) == 200
    assert await attempt(app, CAFE, PASSWORD) == 200


@pytest.mark.parametrize(("email", "left"), [(EMAIL, 6), ("nobody@example.com", 7)])
async def test_strangers_at_many_addresses_share_one_limit_per_account(
    app: FastAPI, email: str, left: int
) -> None:
    answers = [
        await log_in_from(app, f"203.0.113.{n}", WRONG_PASSWORD, email) for n in range(1, 10)
    ]

    assert [answer.status_code for answer in answers] == [401] * left + [429] * (9 - left)
    assert is_about(answers[-1], 129)


@pytest.mark.parametrize("app", [{}, WITHOUT_REDIS], ids=["redis", "no redis"], indirect=True)
async def test_strangers_at_many_addresses_do_not_lock_a_known_client_out(
    app: FastAPI, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 9):
        await attempt(app, f"203.0.113.{number}")

    assert await attempt(app, HOME) == 401
    assert await attempt(app, HOME, PASSWORD) == 200
    assert await attempt(app, CAFE, PASSWORD) == 429  # the price of the shared limit
    assert await attempt(app, STRANGER) == 429  # the owner's login did not reset it
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    reasons = {line.get("reason") for line in lines if line["event"] == "audit.login"}
    assert reasons == {None, "password", "limited by account"}


async def test_a_known_client_is_limited_too(app: FastAPI) -> None:
    assert [await attempt(app, HOME) for _ in range(4)] == [401, 401, 401, 429]
    assert await attempt(app, HOME, PASSWORD) == 429
    assert await attempt(app, CAFE, PASSWORD) == 200


async def test_correct_logins_are_not_limited_per_account(app: FastAPI) -> None:
    assert [await attempt(app, HOME, PASSWORD) for _ in range(4)] == [200] * 4


async def test_an_ipv6_network_is_one_client(app: FastAPI) -> None:
    answers = [await attempt(app, f"2001:db8::{number}") for number in range(1, 5)]

    assert answers == [401, 401, 401, 429]


async def test_a_client_stays_known_for_30_days_after_its_session_has_ended(app: FastAPI) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(update(LoginSession).values(ends_at=func.now(), revoked_at=func.now()))
    for number in range(1, 9):
        await attempt(app, f"203.0.113.{number}")

    assert await attempt(app, HOME, PASSWORD) == 200


async def test_no_address_is_stored(app: FastAPI) -> None:
    async with app.state.db.transaction() as db:
        stored = (await db.execute(select(LoginSession))).scalars().all()

    hashes = [session.client_hash for session in stored if session.client_hash]
    assert hashes
    assert {len(client_hash) for client_hash in hashes} == {32}
    assert not any(HOME.encode() in client_hash for client_hash in hashes)
