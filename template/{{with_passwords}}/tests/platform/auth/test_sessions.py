"""Login sessions: each can be ended separately."""

import httpx2
from fastapi import FastAPI
from pydantic import SecretStr

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"


async def test_a_logout_ends_this_session_only(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with client_for(app) as elsewhere:
        elsewhere.headers.update(await sign_in(elsewhere, "alice@example.com"))
        assert (await alice.post("/api/v1/auth/logout")).status_code == 204
        answers = [(await c.get(ME)).status_code for c in (alice, elsewhere, bob)]

    assert answers == [401, 200, 200]


async def test_logging_out_everywhere_ends_all_sessions_of_one_account(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with client_for(app) as elsewhere:
        elsewhere.headers.update(await sign_in(elsewhere, "alice@example.com"))
        assert (await alice.post("/api/v1/auth/logout-all")).status_code == 204
        answers = [(await c.get(ME)).status_code for c in (alice, elsewhere, bob)]

    assert answers == [401, 401, 200]


async def test_logins_and_sessions_do_not_need_redis(module_settings: Settings) -> None:
    away = {"redis_url": SecretStr("redis://127.0.0.1:1/0")}
    async with (
        running_app(module_settings.model_copy(update=away)) as app,
        client_for(app) as client,
    ):
        client.headers.update(await sign_in(client, "alice@example.com"))
        assert (await client.get(ME)).status_code == 200
