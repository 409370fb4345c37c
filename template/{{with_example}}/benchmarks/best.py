"""The fastest plausible service with the example's API: written by hand, and with nothing else.

It verifies a signed token, looks up the session, and reads or writes one table through asyncpg. It
has no log, traces, metrics, limits, validators of cached responses or error documents: the measure
of what those cost, not a way to serve.
"""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

KEY = os.environ.get("SECRET_KEY", "")
ITEMS = "/api/v1/items"
TABLES = """
    DROP TABLE IF EXISTS best_items, best_sessions, best_accounts;
    CREATE TABLE best_accounts (
        id uuid PRIMARY KEY, scopes text[] NOT NULL, disabled_at timestamptz
    );
    CREATE TABLE best_sessions (
        id uuid PRIMARY KEY, account_id uuid NOT NULL REFERENCES best_accounts,
        expires_at timestamptz NOT NULL, revoked_at timestamptz
    );
    CREATE TABLE best_items (
        id uuid PRIMARY KEY, owner text NOT NULL, name text NOT NULL, description text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        version int NOT NULL
    );
    CREATE INDEX ON best_items (owner, created_at, id);
"""
SESSION = """
    SELECT scopes FROM best_sessions s JOIN best_accounts a ON a.id = s.account_id
    WHERE s.id = $1 AND a.id = $2 AND revoked_at IS NULL AND expires_at > now()
        AND disabled_at IS NULL
"""
COLUMNS = "id, name, description, created_at, updated_at, version"
ONE = f"SELECT {COLUMNS} FROM best_items WHERE id = $1 AND owner = $2"
PAGE = f"""
    SELECT {COLUMNS} FROM best_items WHERE owner = $1 ORDER BY created_at DESC, id DESC LIMIT $2
"""
NEW = f"""
    INSERT INTO best_items (id, owner, name, description, version) VALUES ($1, $2, $3, $4, 1)
    RETURNING {COLUMNS}
"""


class NewItem(BaseModel):
    name: str
    description: str = ""


class Item(BaseModel):
    id: UUID
    name: str
    description: str
    created_at: datetime
    updated_at: datetime
    version: int


class Page(BaseModel):
    items: list[Item]
    next: str | None


async def prepare(connection: asyncpg.Connection, key: str) -> str:
    """Create the tables and a session; return its token, signed with ``key``."""
    account, session = uuid4(), uuid4()
    await connection.execute(TABLES)
    await connection.execute("INSERT INTO best_accounts VALUES ($1, '{}')", account)
    insert = "INSERT INTO best_sessions VALUES ($1, $2, now() + interval '1 day')"
    await connection.execute(insert, session, account)
    claims = {"sub": str(account), "sid": str(session), "exp": time.time() + 86_400}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode())
    return f"{payload.decode()}.{_signature(payload, key)}"


def _signature(payload: bytes, key: str) -> str:
    digest = hmac.digest(key.encode(), payload, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode()


def read(token: str) -> dict[str, Any]:
    """The claims of a valid token; raises ``ValueError`` for any other."""
    payload, _, signature = token.partition(".")
    if not hmac.compare_digest(signature, _signature(payload.encode(), KEY)):
        raise ValueError(token)
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload))
    if claims["exp"] < time.time():
        raise ValueError(token)
    return claims


async def pool(request: Request) -> Any:
    return request.app.state.pool


Pool = Annotated[Any, Depends(pool)]


async def current_user(request: Request, pool: Pool) -> str:
    try:
        claims = read(request.headers["authorization"].removeprefix("Bearer "))
    except (KeyError, ValueError):
        raise HTTPException(401) from None
    if await pool.fetchrow(SESSION, claims["sid"], claims["sub"]) is None:
        raise HTTPException(401)
    return str(claims["sub"])


User = Annotated[str, Depends(current_user)]


async def get_item(item_id: UUID, user: User, pool: Pool) -> Item:
    row = await pool.fetchrow(ONE, item_id, user)
    if row is None:
        raise HTTPException(404)
    return Item(**row)


async def list_items(user: User, pool: Pool, limit: int = 20) -> Page:
    items = [Item(**row) for row in await pool.fetch(PAGE, user, limit + 1)]
    return Page(items=items[:limit], next=str(items[limit].id) if len(items) > limit else None)


async def create_item(item: NewItem, user: User, pool: Pool) -> Item:
    return Item(**await pool.fetchrow(NEW, uuid4(), user, item.name, item.description))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["DATABASE_URL"].replace("+asyncpg", "")
    async with asyncpg.create_pool(url, min_size=10, max_size=10) as app.state.pool:
        yield


def create_app() -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    app.add_api_route(ITEMS, list_items)
    app.add_api_route(ITEMS, create_item, methods=["POST"], status_code=201)
    app.add_api_route(f"{ITEMS}/{{item_id}}", get_item)
    return app
