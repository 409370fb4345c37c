"""A client that behaves like a browser: it stores cookies and sends them automatically."""

from http.cookies import SimpleCookie

import httpx2
from fastapi import FastAPI

from tests.accounts import AUTH, log_in, register

EMAIL = "ada@example.com"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Origin": "https://test"}


def browser_of(app: FastAPI) -> httpx2.AsyncClient:
    """A client that uses HTTPS."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="https://test", headers=SAME_ORIGIN)


async def logged_in(browser: httpx2.AsyncClient, email: str = EMAIL) -> str:
    """Log in; return the CSRF token."""
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
    """The status of reading the account or, with POST, of ending all of its sessions."""
    path = f"{AUTH}/me" if method == "GET" else f"{AUTH}/logout-all"
    return (await browser.request(method, path, headers=headers)).status_code
