"""Sessions in browsers: attributes of the cookies, and their replacement at login."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.auth import CurrentUser
from app.platform.auth.models import LoginSession
from app.platform.settings.core import DEPLOYED
from app.settings import Settings
from tests.accounts import AUTH, log_in, register
from tests.conftest import client_for, running_app
from tests.platform.auth.browser import EMAIL, browser_of, cookies_set, logged_in, status


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with browser_of(app) as browser:
        yield browser


async def test_safe_requests_need_the_cookie_only(browser: httpx2.AsyncClient) -> None:
    await logged_in(browser)

    assert (await browser.get(f"{AUTH}/me")).json()["email"] == EMAIL


@pytest.mark.parametrize("environment", DEPLOYED)
async def test_in_production_scripts_and_other_hosts_cannot_read_the_session_cookie(
    fresh_settings: Settings, environment: str
) -> None:
    deployed = fresh_settings.model_copy(update={"environment": environment})
    async with running_app(deployed) as app, browser_of(app) as browser:
        await register(browser, EMAIL)
        answer = await log_in(browser, EMAIL)
        assert await status(browser) == 200
        browser.cookies = httpx2.Cookies({"session": browser.cookies["__Host-session"]})
        assert await status(browser) == 401

    cookies = cookies_set(answer)
    assert set(cookies) == {"__Host-session", "__Host-csrf"}
    for cookie in cookies.values():
        assert cookie["secure"]
        assert cookie["path"] == "/"
        assert cookie["domain"] == ""
        assert cookie["samesite"] == "lax"
    assert cookies["__Host-session"]["httponly"]
    assert not cookies["__Host-csrf"]["httponly"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert cookies["__Host-session"].value not in answer.text


async def test_outside_of_production_cookies_work_over_plain_http(app: FastAPI) -> None:
    async with client_for(app) as browser:
        await logged_in(browser)
        assert await status(browser) == 200


async def test_the_stored_hash_is_not_the_session_token(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    await logged_in(browser)
    async with app.state.db.transaction() as db:
        row = (await db.execute(select(LoginSession))).scalar_one()

    assert len(browser.cookies["session"]) * 6 >= 256 + 128
    assert row.secret_hash.hex() not in browser.cookies["session"]
    assert len(row.secret_hash) == 32


async def test_a_login_replaces_the_previous_session(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    await logged_in(browser)
    before = browser.cookies["session"]
    await logged_in(browser)
    after = browser.cookies["session"]
    async with browser_of(app) as elsewhere:
        elsewhere.cookies["session"] = before
        assert await status(elsewhere) == 401

    assert before != after
    assert await status(browser) == 200


async def test_a_login_ends_a_session_that_an_attacker_fixed(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    async with browser_of(app) as attacker:
        await logged_in(attacker, "mallory@example.com")
        planted = attacker.cookies["session"]
        browser.cookies.set("session", planted, domain="test.local", path="/")
        await logged_in(browser)
        me = await attacker.get(f"{AUTH}/me")

    assert browser.cookies["session"] != planted
    assert me.status_code == 401


@pytest.mark.parametrize("invalid", ["x", "A" * 64, "../" * 20, "é"])
async def test_a_login_ignores_an_invalid_cookie(app: FastAPI, invalid: str) -> None:
    async with client_for(app) as client:
        await register(client, EMAIL)
        header = {b"Cookie": b"session=" + invalid.encode()}
        form = {"username": EMAIL, "password": "correct horse battery"}
        answer = await client.post(f"{AUTH}/login", data=form, headers=header)

    assert answer.status_code == 200
    assert cookies_set(answer)["session"].value != invalid


async def test_a_logout_deletes_the_cookies_and_ends_the_session(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    csrf = await logged_in(browser)
    kept = browser.cookies["session"]
    answer = await browser.post(f"{AUTH}/logout", headers={"X-CSRF-Token": csrf})
    assert answer.status_code == 204
    assert dict(browser.cookies) == {}
    browser.cookies["session"] = kept

    assert await status(browser) == 401


async def test_responses_to_a_cookie_are_not_stored_by_shared_caches(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    async def personal(user: CurrentUser) -> str:
        return user.id

    app.add_api_route("/personal", personal)
    await logged_in(browser)
    answer = await browser.get("/personal")
    app.router.routes.pop()

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_the_authorization_header_takes_precedence_over_the_cookie(
    browser: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    await logged_in(browser)
    header = {"Authorization": bob.headers["Authorization"]}
    me = await browser.get(f"{AUTH}/me", headers=header)
    bad = await browser.get(f"{AUTH}/me", headers={"Authorization": "Bearer made-up"})

    assert me.json()["email"] == "bob@example.com"
    assert bad.status_code == 401


async def test_swagger_ui_can_sign_in(app: FastAPI, client: httpx2.AsyncClient) -> None:
    schemes = app.openapi()["components"]["securitySchemes"]
    await register(client, EMAIL)
    url = schemes["bearer"]["flows"]["password"]["tokenUrl"]
    form = {"grant_type": "password", "username": EMAIL, "password": "correct horse battery"}
    token = (await client.post(url, data=form)).json()
    header = {"Authorization": f"{token['token_type']} {token['access_token']}"}

    assert schemes["cookie"] | {"description": ""} == {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-session",
        "description": "",
    }
    assert (await client.get(f"{AUTH}/me", headers=header)).json()["email"] == EMAIL
    assert dict(client.cookies) == {}
