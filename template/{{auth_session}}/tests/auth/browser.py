"""What a browser does for the tests of cookies: it keeps them, and sends them by itself."""

from http.cookies import SimpleCookie

import httpx2
from fastapi import FastAPI

from tests.accounts import AUTH, log_in, register

EMAIL = "ada@example.com"
HOME = {"Sec-Fetch-Site": "same-origin", "Origin": "https://test"}


def browser_of(app: FastAPI) -> httpx2.AsyncClient:
    """Return a client that came to the service over HTTPS."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="https://test", headers=HOME)


async def logged_in(browser: httpx2.AsyncClient, email: str = EMAIL) -> str:
    """Log in, and return the CSRF token."""
    await register(browser, email)
    answer = await log_in(browser, email)
    answer.raise_for_status()
    token: str = answer.json()["csrf_token"]
    return token


def cookies_set(answer: httpx2.Response) -> SimpleCookie:
    cookies = SimpleCookie()
    for header in answer.headers.get_list("Set-Cookie"):
        cookies.load(header)
    return cookies


async def status(browser: httpx2.AsyncClient, method: str = "GET", **headers: str) -> int:
    """Ask who I am, or log out everywhere, which is what changes something here."""
    path = f"{AUTH}/me" if method == "GET" else f"{AUTH}/logout-all"
    return (await browser.request(method, path, headers=headers)).status_code
