"""Pages of other sites: browsers send our cookie along, and it does them no good."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI, WebSocket

from app.auth import CurrentUser
from app.auth.scheme import Shown, authenticate
from app.platform.base.errors import Forbidden
from app.settings import Settings
from tests.accounts import AUTH, PASSWORD, register
from tests.auth.browser import EMAIL, browser_of, cookies_set, logged_in, status
from tests.conftest import client_for, running_app

PARTNER = "https://app.example.com"
EVIL = "https://evil.test"


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with browser_of(app) as browser:
        yield browser


async def test_our_page_with_the_token_may_change_something(browser: httpx2.AsyncClient) -> None:
    csrf = await logged_in(browser)

    assert await status(browser, "POST", **{"X-CSRF-Token": csrf}) == 204


async def test_the_token_is_in_a_cookie_and_can_be_asked_for(browser: httpx2.AsyncClient) -> None:
    csrf = await logged_in(browser)
    asked = await browser.get(f"{AUTH}/csrf")

    assert browser.cookies["csrf"] == asked.json()["csrf_token"] == csrf
    assert asked.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("token", [None, "", "wrong", "é", "cookie", "another session's"])
async def test_without_the_right_token_nothing_changes(
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
        {"Sec-Fetch-Site": "cross-site", "Origin": PARTNER},
        {"Sec-Fetch-Site": "", "Origin": EVIL},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "http://["},
        {"Sec-Fetch-Site": "", "Origin": "https://test.evil.test"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.test/https://test"},
    ],
)
async def test_a_page_of_another_site_changes_nothing_even_with_the_token(
    browser: httpx2.AsyncClient, page: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    csrf = await logged_in(browser)

    assert await status(browser, "POST", **page, **{"X-CSRF-Token": csrf}) == 403
    assert await status(browser) == 200
    output = capfd.readouterr().out
    assert '"reason":"site"' in output
    assert csrf not in output


@pytest.mark.parametrize("origin", ["https://test", None])
async def test_an_old_browser_is_known_by_its_origin(app: FastAPI, origin: str | None) -> None:
    async with client_for(app) as browser:
        csrf = await logged_in(browser)
        headers = {"X-CSRF-Token": csrf} | ({"Origin": "http://test"} if origin else {})

        assert await status(browser, "POST", **headers) == 204


async def test_a_page_of_another_site_can_not_log_a_visitor_in(browser: httpx2.AsyncClient) -> None:
    await register(browser, EMAIL)
    form = {"username": EMAIL, "password": PASSWORD}
    page = {"Sec-Fetch-Site": "cross-site", "Origin": EVIL}
    answer = await browser.post(f"{AUTH}/login", data=form, headers=page)

    assert answer.status_code == 403
    assert not cookies_set(answer)


async def test_a_bearer_token_needs_no_csrf_token(alice: httpx2.AsyncClient) -> None:
    assert await status(alice, "POST", Origin=EVIL, **{"Sec-Fetch-Site": "cross-site"}) == 204


@pytest.mark.parametrize(("credentials", "expected"), [(True, 204), (False, 403)])
async def test_pages_that_are_named_may_if_they_may_have_cookies(
    fresh_settings: Settings, credentials: bool, expected: int
) -> None:
    changes = {"cors_origins": [PARTNER], "cors_allow_credentials": credentials}
    page = {"Sec-Fetch-Site": "same-site", "Origin": PARTNER}
    changed_settings = fresh_settings.model_copy(update=changes)
    async with running_app(changed_settings) as app, browser_of(app) as browser:
        csrf = await logged_in(browser)
        asked = {"Access-Control-Request-Method": "POST", "Origin": PARTNER}
        asked["Access-Control-Request-Headers"] = "x-csrf-token"
        preflight = await browser.options(f"{AUTH}/logout-all", headers=asked)
        refused = await browser.options(f"{AUTH}/csrf", headers={**asked, "Origin": EVIL})
        changed = await status(browser, "POST", **page, **{"X-CSRF-Token": csrf})

    assert preflight.headers["Access-Control-Allow-Origin"] == PARTNER
    assert ("Access-Control-Allow-Credentials" in preflight.headers) == credentials
    assert "X-CSRF-Token" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert changed == expected


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "BREW"])
async def test_every_method_that_may_change_something_needs_the_token(
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
async def test_a_websocket_of_another_site_is_refused(
    app: FastAPI, browser: httpx2.AsyncClient, origin: str, ours: bool
) -> None:
    await logged_in(browser)
    headers = [(b"host", b"test"), (b"origin", origin.encode())]
    scope = {"type": "websocket", "app": app, "headers": headers, "path": "/", "client": None}
    socket = WebSocket(scope, None, None)  # type: ignore[arg-type]
    shown = Shown(browser.cookies["session"], by_cookie=True)

    if ours:
        assert (await authenticate(socket, shown)).id
    else:
        with pytest.raises(Forbidden):
            await authenticate(socket, shown)
