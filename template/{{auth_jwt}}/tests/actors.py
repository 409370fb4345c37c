"""Sign-in for tests, and invalid credentials for the security tests."""

import httpx2
from fastapi import FastAPI
from sqlalchemy import URL

from tests.accounts import PASSWORD, REVOCATIONS, allow, log_in, register
from tests.platform.auth.forged import forgeries

__all__ = [
    "REVOCATIONS",
    "hostile_credentials",
    "seed",
    "sign_in",
    "sign_in_with",
    "smoke_credentials",
]


async def seed(database: URL) -> None:
    """No seed data needed."""


async def sign_in(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """Create an account if there is none, log in, and return the header with the token."""
    await register(client, email)
    answer = await log_in(client, email)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def smoke_credentials(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """The variables of ``deploy/login.sh``."""
    await register(client, email)
    return {"SMOKE_USER": email, "SMOKE_PASSWORD": PASSWORD}


async def sign_in_with(
    app: FastAPI, client: httpx2.AsyncClient, email: str, *scopes: str
) -> dict[str, str]:
    """Sign in as a caller with ``scopes``."""
    await register(client, email)
    await allow(app, email, *scopes)
    return await sign_in(client, email)


async def hostile_credentials(app: FastAPI, good: str) -> dict[str, str]:
    """Invalid access tokens by name, derived from a valid one."""
    return forgeries(good, app.state.settings)
