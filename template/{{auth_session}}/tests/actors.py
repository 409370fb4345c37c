"""Sign-in for tests, and invalid credentials for the security tests."""

import secrets
from datetime import timedelta
from uuid import uuid4

import httpx2
from fastapi import FastAPI
from sqlalchemy import URL, func, update

from app.platform.auth import sessions, tokens
from app.platform.auth.models import LoginSession
from app.platform.base import signing
from tests.accounts import AUTH, PASSWORD, REVOCATIONS, allow, register

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
    """Create an account if there is none, open a session, and return its header."""
    await register(client, email)
    form = {"username": email, "password": PASSWORD}
    answer = await client.post(f"{AUTH}/token", data=form)
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
    """Invalid tokens by name, derived from a valid one."""
    session_id, secret = tokens.decode(good)
    return {
        "another secret": tokens.encode(session_id, secrets.token_bytes(32)),
        "another session": tokens.encode(uuid4(), secret),
        "the stored hash": tokens.encode(session_id, sessions.hash_secret(secret)),
        "the id alone": str(session_id),
        "an empty secret": tokens.encode(session_id, b""),
        "signed": signing.sign((b"0" * 32,), session_id.bytes + secret),
        "alg none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "idle for too long": await _with_past(app, good, "expires_at"),
        "too old": await _with_past(app, good, "expires_at", "ends_at"),
        "revoked": await _with_past(app, good, "revoked_at"),
    }


async def _with_past(app: FastAPI, good: str, *columns: str) -> str:
    """The token of another session of the same account, with times in the past."""
    session_id, _ = tokens.decode(good)
    async with app.state.db.transaction() as db:
        account_id = (await db.get_one(LoginSession, session_id)).account_id
        secret = sessions.new_secret()
        session = await sessions.open_session(db, account_id, secret, app.state.settings)
        past = dict.fromkeys(columns, func.now() - timedelta(seconds=1))
        await db.execute(update(LoginSession).where(LoginSession.id == session).values(**past))
    return tokens.encode(session, secret)
