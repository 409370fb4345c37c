"""Cross-site request forgery: requests that a browser sends for pages of other sites."""

import re
import secrets
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from pydantic import SecretStr

from app.auth import CurrentUser
from app.platform.auth.scheme import PresentedToken, authenticate
from app.platform.base.errors import Forbidden
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, allow, register
from tests.conftest import client_for, running_app
from tests.platform.auth.browser import EMAIL, browser_of, cookies_set, logged_in, status

LISTED = "https://app.example.com"
EVIL = "https://evil.test"
USERS = "/api/v1/admin/users"


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with browser_of(app) as browser:
        yield browser


async def test_a_same_origin_request_with_the_token_succeeds(browser: httpx2.AsyncClient) -> None:
    csrf = await logged_in(browser)

    assert await status(browser, "POST", **{"X-CSRF-Token": csrf}) == 204


async def test_the_csrf_token_is_in_a_cookie_and_at_a_route(browser: httpx2.AsyncClient) -> None:
    csrf = await logged_in(browser)
    asked = await browser.get(f"{AUTH}/csrf")

    assert browser.cookies["csrf"] == asked.json()["csrf_token"] == csrf
    assert asked.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("token", [None, "", "wrong", "é", "cookie", "another session's"])
async def test_a_request_without_the_right_token_is_refused(
    app: FastAPI, browser: httpx2.AsyncClient, token: str | None
) -> None:
    await logged_in(browser)
    if token == "cookie":
        browser.cookies["csrf"] = "mine"  # as somebody on a subdomain could set it
        token = "mine"
    elif token == "another session's":
        async with browser_of(app) as other:
            token = await logged_in(other)
    headers = {} if token is None else {b"X-CSRF-Token": token.encode()}
    answer = await browser.post(f"{AUTH}/logout-all", headers=headers)

    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert await status(browser) == 200


@pytest.mark.parametrize(
    "page",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": EVIL},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://other.test"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://test"},
        {"Sec-Fetch-Site": "cross-site", "Origin": LISTED},
        {"Sec-Fetch-Site": "", "Origin": EVIL},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "http://["},
        {"Sec-Fetch-Site": "", "Origin": "https://test.evil.test"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.test/https://test"},
    ],
)
async def test_a_cross_site_request_is_refused_even_with_the_token(
    browser: httpx2.AsyncClient, page: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    csrf = await logged_in(browser)

    assert await status(browser, "POST", **page, **{"X-CSRF-Token": csrf}) == 403
    assert await status(browser) == 200
    output = capfd.readouterr().out
    assert '"reason":"site"' in output
    assert csrf not in output


@pytest.mark.parametrize("origin", ["https://test", None])
async def test_browsers_without_fetch_metadata_are_checked_by_origin(
    app: FastAPI, origin: str | None
) -> None:
    async with client_for(app) as browser:
        csrf = await logged_in(browser)
        headers = {"X-CSRF-Token": csrf} | ({"Origin": "http://test"} if origin else {})

        assert await status(browser, "POST", **headers) == 204


async def test_a_cross_site_login_is_refused(browser: httpx2.AsyncClient) -> None:
    await register(browser, EMAIL)
    form = {"username": EMAIL, "password": PASSWORD}
    page = {"Sec-Fetch-Site": "cross-site", "Origin": EVIL}
    answer = await browser.post(f"{AUTH}/login", data=form, headers=page)

    assert answer.status_code == 403
    assert not cookies_set(answer)


async def test_a_bearer_token_needs_no_csrf_token(alice: httpx2.AsyncClient) -> None:
    assert await status(alice, "POST", Origin=EVIL, **{"Sec-Fetch-Site": "cross-site"}) == 204


@pytest.mark.parametrize(("credentials", "expected"), [(True, 204), (False, 403)])
async def test_listed_origins_are_trusted_if_credentials_are_allowed(
    fresh_settings: Settings, credentials: bool, expected: int
) -> None:
    changes = {"cors_origins": [LISTED], "cors_allow_credentials": credentials}
    page = {"Sec-Fetch-Site": "same-site", "Origin": LISTED}
    changed_settings = fresh_settings.model_copy(update=changes)
    async with running_app(changed_settings) as app, browser_of(app) as browser:
        csrf = await logged_in(browser)
        asked = {"Access-Control-Request-Method": "POST", "Origin": LISTED}
        asked["Access-Control-Request-Headers"] = "x-csrf-token"
        preflight = await browser.options(f"{AUTH}/logout-all", headers=asked)
        refused = await browser.options(f"{AUTH}/csrf", headers={**asked, "Origin": EVIL})
        changed = await status(browser, "POST", **page, **{"X-CSRF-Token": csrf})

    assert preflight.headers["Access-Control-Allow-Origin"] == LISTED
    assert ("Access-Control-Allow-Credentials" in preflight.headers) == credentials
    assert "X-CSRF-Token" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert changed == expected


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "BREW"])
async def test_every_unsafe_method_needs_the_token(
    app: FastAPI, browser: httpx2.AsyncClient, method: str
) -> None:
    async def change(user: CurrentUser) -> None: ...

    app.add_api_route("/change", change, methods=[method])
    csrf = await logged_in(browser)
    without = await browser.request(method, "/change")
    with_it = await browser.request(method, "/change", headers={"X-CSRF-Token": csrf})
    app.router.routes.pop()

    assert (without.status_code, with_it.status_code) == (403, 200)


@pytest.mark.parametrize(("origin", "ours"), [("https://test", True), (EVIL, False)])
async def test_a_cross_site_websocket_is_refused(
    app: FastAPI, browser: httpx2.AsyncClient, origin: str, ours: bool
) -> None:
    await logged_in(browser)
    headers = [(b"host", b"test"), (b"origin", origin.encode())]
    scope = {"type": "websocket", "app": app, "headers": headers, "path": "/", "client": None}
    socket = WebSocket(scope, None, None)  # type: ignore[arg-type]
    presented = PresentedToken(browser.cookies["session"], by_cookie=True)

    if ours:
        assert (await authenticate(socket, presented)).id
    else:
        with pytest.raises(Forbidden):
            await authenticate(socket, presented)


async def test_a_csrf_token_survives_a_rotation_of_the_secret_key(
    module_settings: Settings,
) -> None:
    rotated = module_settings.model_copy(
        update={
            "secret_key": SecretStr(secrets.token_hex(32)),
            "secret_key_fallbacks": module_settings.secret_key,
        }
    )
    async with running_app(module_settings) as app, browser_of(app) as browser:
        csrf = await logged_in(browser)
        cookies = dict(browser.cookies)
    async with running_app(rotated) as app, browser_of(app) as browser:
        browser.cookies.update(cookies)

        assert await status(browser, "POST", **{"X-CSRF-Token": csrf}) == 204


async def test_every_route_that_changes_something_needs_the_token_of_a_cookies_session(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    await logged_in(browser)
    await allow(app, EMAIL, "admin")  # so that no route refuses her for another reason
    routes = [
        (method, re.sub(r"\{[^}]+\}", str(uuid4()), path))
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") and method not in ("get", "head", "options")
    ]
    answers = {route: await browser.request(*route) for route in routes}

    assert ("post", f"{AUTH}/delete-account") in answers
    assert any("/admin/" in path for _, path in routes)
    wrong = {route: each.text for route, each in answers.items() if "X-CSRF-Token" not in each.text}
    assert wrong == {}
    assert {answer.status_code for answer in answers.values()} == {403}
    assert await status(browser) == 200


async def test_a_page_of_another_site_can_not_use_the_session_of_an_administrator(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    csrf = await logged_in(browser)
    await allow(app, EMAIL, "admin")
    [user] = (await browser.get(USERS)).json()["items"]
    role = f"{USERS}/{user['id']}/roles/admin"
    evil = {"Sec-Fetch-Site": "cross-site", "Origin": EVIL}
    attempts = [{}, evil, {**evil, "X-CSRF-Token": csrf}, {"X-CSRF-Token": "wrong"}]
    refused = [(await browser.put(role, headers=each)).status_code for each in attempts]
    [after] = (await browser.get(USERS)).json()["items"]
    done = await browser.put(role, headers={"X-CSRF-Token": csrf})

    assert refused == [403] * 4
    assert after["roles"] == []
    assert (done.status_code, done.json()["roles"]) == (200, ["admin"])
