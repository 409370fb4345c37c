"""Sign-in for tests, and invalid credentials for the security tests."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import httpx2
from fastapi import FastAPI
from sqlalchemy import URL, delete, func, insert, update
from sqlalchemy.ext.asyncio import create_async_engine

from app.platform.auth import key_format, keys
from app.platform.auth.audit_log import Actor
from app.platform.auth.models import ApiKey
from app.platform.base import signing

KEYS = "/api/v1/auth/keys"
ADMIN = key_format.assemble("test", "0" * 16, "a" * 52)  # valid in test databases only
ACTOR = Actor("test")
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}

Headers = dict[str, str]
Revocation = Callable[[FastAPI, httpx2.AsyncClient, str, Headers], Awaitable[None]]


def owner_of(email: str) -> str:
    """The owner that stands for an e-mail address in tests."""
    return email.replace("@", ".at.")


async def seed(database: URL) -> None:
    """Store the key that creates the others."""
    values = {"id": "0" * 16, "owner": "admin", "hash": key_format.hash_key(ADMIN)}
    engine = create_async_engine(database)
    try:
        async with engine.begin() as connection:
            scopes = ["keys", "keys:admin"]
            await connection.execute(insert(ApiKey).values(**values, scopes=scopes))
    finally:
        await engine.dispose()


async def sign_in(client: httpx2.AsyncClient, email: str, *scopes: str) -> Headers:
    """Create a key; return the header that has it."""
    body = {"owner": owner_of(email), "scopes": scopes}
    answer = await client.post(KEYS, json=body, headers=AS_ADMIN)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['key']}"}


async def smoke_credentials(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """The variables of ``deploy/login.sh``."""
    return {"SMOKE_API_KEY": key_in(await sign_in(client, email))}


async def sign_in_with(
    app: FastAPI, client: httpx2.AsyncClient, email: str, *scopes: str
) -> Headers:
    """Sign in as a caller with ``scopes``."""
    return await sign_in(client, email, *scopes)


def key_in(headers: Mapping[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


async def hostile_credentials(app: FastAPI, good: str) -> dict[str, str]:
    """Invalid keys by name, derived from a valid one."""
    prefix, key_id, rest = good.split("_")
    secret = rest[:-8]
    return {
        "another secret": key_format.assemble(prefix, key_id, "b" * 52),
        "another id": key_format.assemble(prefix, "f" * 16, secret),
        "another key's id": key_format.assemble(prefix, "0" * 16, secret),
        "another prefix": key_format.assemble("other", key_id, secret),
        "another checksum": good[:-8] + ("0" * 8 if good[-8:] != "0" * 8 else "1" * 8),
        "in upper case": good.upper(),
        "the id alone": key_id,
        "the secret alone": secret,
        "the stored hash": key_format.hash_key(good).hex(),
        "signed": signing.sign((b"0" * 32,), good.encode()),
        "alg none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "expired": await _with_past(app, "expires_at"),
        "revoked": await _with_past(app, "revoked_at"),
    }


async def _with_past(app: FastAPI, column: str) -> str:
    """A new key with a time in the past."""
    async with app.state.db.transaction() as db:
        key, text = await keys.create(db, ACTOR, "key", "mallory", [], timedelta(days=1))
        past = {column: func.now() - timedelta(seconds=1)}
        await db.execute(update(ApiKey).where(ApiKey.id == key.id).values(**past))
    return text


async def _revoke(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    where = f"{KEYS}/{key_format.parse_id(key_in(headers))}"
    (await client.delete(where, headers=AS_ADMIN)).raise_for_status()


async def _revoke_all(
    app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers
) -> None:
    async with app.state.db.transaction() as db:
        assert await keys.revoke_all(db, ACTOR, owner_of(email)) == 1


async def _disable(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        key = await keys.get_for_update(db, key_format.parse_id(key_in(headers)))
        await keys.disable(db, ACTOR, key)


async def _expire(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        of_owner = update(ApiKey).where(ApiKey.owner == owner_of(email))
        await db.execute(of_owner.values(expires_at=func.now()))


async def _delete(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(delete(ApiKey).where(ApiKey.owner == owner_of(email)))


async def _rotate(app: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
    where = f"{KEYS}/{key_format.parse_id(key_in(headers))}/rotate"
    answer = await client.post(where, json={"overlap_hours": 0}, headers=AS_ADMIN)
    answer.raise_for_status()


REVOCATIONS: dict[str, Revocation] = {
    "revoked": _revoke,
    "all of the owner revoked": _revoke_all,
    "disabled": _disable,
    "expired": _expire,
    "deleted": _delete,
    "rotated without an overlap": _rotate,
}
