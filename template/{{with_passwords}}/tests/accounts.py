"""Accounts for tests: registration, login, and every way to end a session."""

from collections.abc import Awaitable, Callable

import httpx2
from fastapi import FastAPI
from sqlalchemy import delete, func, update

from app.platform.auth.models import Account, LoginSession

PASSWORD = "correct horse battery"
AUTH = "/api/v1/auth"

Headers = dict[str, str]
Revocation = Callable[[FastAPI, httpx2.AsyncClient, str, Headers], Awaitable[None]]


async def register(
    client: httpx2.AsyncClient, email: str, password: str = PASSWORD
) -> httpx2.Response:
    return await client.post(f"{AUTH}/register", json={"email": email, "password": password})


async def log_in(
    client: httpx2.AsyncClient, email: str, password: str = PASSWORD
) -> httpx2.Response:
    return await client.post(f"{AUTH}/login", data={"username": email, "password": password})


async def allow(app: FastAPI, email: str, *scopes: str) -> None:
    """Set the scopes of an account."""
    async with app.state.db.transaction() as db:
        of_account = update(Account).where(Account.email == email)
        await db.execute(of_account.values(scopes=list(scopes)))


async def _log_out(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    (await client.post(f"{AUTH}/logout", headers=headers)).raise_for_status()


async def _log_out_everywhere(
    app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers
) -> None:
    (await client.post(f"{AUTH}/logout-all", headers=headers)).raise_for_status()


async def _disable(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        of_account = update(Account).where(Account.email == email)
        await db.execute(of_account.values(disabled_at=func.now()))


async def _expire(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        account = update(LoginSession).where(
            LoginSession.account_id == Account.id, Account.email == email
        )
        await db.execute(account.values(expires_at=func.now()))


async def _delete(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(delete(Account).where(Account.email == email))


REVOCATIONS: dict[str, Revocation] = {
    "logout": _log_out,
    "logout everywhere": _log_out_everywhere,
    "account disabled": _disable,
    "account deleted": _delete,
    "session expired": _expire,
}


async def post(
    client: httpx2.AsyncClient, path: str, headers: Headers | None = None, **body: object
) -> httpx2.Response:
    """POST to a route of accounts, such as ``forgot-password``."""
    return await client.post(f"{AUTH}/{path}", json=body, headers=headers)
