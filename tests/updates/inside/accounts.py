"""Run inside a generated service, with its own helpers: its accounts, before and after an update.

``create`` makes them, and ``read`` looks at those that are there. Each writes a file of JSON: the
rows found at the beginning, what an administrator and the owners see, and the rows at the end.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy import make_url, text

from app.settings import get_settings
from tests.accounts import AUTH, PASSWORD, log_in, post, register
from tests.actors import sign_in
from tests.commands import run_command
from tests.conftest import client_for, migrate, running_app
from tests.mail import link_token, mails_to

ADMIN, ADA, BOB, CAROL = (f"{name}@example.com" for name in ("admin", "ada", "bob", "carol"))
USERS, EVENTS = "/api/v1/admin/users", "/api/v1/admin/audit-events"
TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name
"""


async def rows(app: FastAPI) -> dict[str, list[str]]:
    """Every row of every table, the versions of the migrations too."""
    async with app.state.db.transaction() as db:
        return {
            name: sorted(await db.scalars(text(f'SELECT to_jsonb(t)::text FROM "{name}" t')))
            for name in await db.scalars(text(TABLES))
        }


async def create(app: FastAPI, client: httpx2.AsyncClient) -> None:
    """An administrator, confirmed addresses, a disabled account, and a link that waits."""
    env = {**os.environ, "NEW_USER_PASSWORD": PASSWORD}
    assert run_command("users", "create", ADMIN, "--role", "admin", env=env).returncode == 0
    for email in (ADA, BOB, CAROL):
        assert (await register(client, email)).is_success
    for email in (ADA, CAROL):
        assert (await post(client, "verify-email", token=await link(app, email))).is_success
    admin = await sign_in(client, ADMIN)
    [bob] = (await client.get(USERS, params={"email": BOB}, headers=admin)).json()["items"]
    assert (await client.post(f"{USERS}/{bob['id']}/disable", headers=admin)).is_success
    assert (await post(client, "forgot-password", email=CAROL)).is_success


async def read(app: FastAPI, client: httpx2.AsyncClient) -> None:
    """The link that waits sets a password, the same one, and another link waits."""
    token = await link(app, CAROL)
    answer = await post(client, "reset-password", token=token, new_password=PASSWORD)
    assert answer.is_success, answer.text
    assert (await post(client, "forgot-password", email=CAROL)).is_success


async def look(client: httpx2.AsyncClient) -> dict[str, Any]:
    """What an administrator and the owners see, who log in with the passwords that they had."""
    admin = await sign_in(client, ADMIN)
    users = (await client.get(USERS, headers=admin)).json()["items"]
    events = (await client.get(EVENTS, headers=admin)).json()["items"]
    owner = (await client.get(f"{AUTH}/me", headers=await sign_in(client, ADA))).json()
    return {
        "users": [user | {"sessions": None} for user in users],  # each look logs in
        "events": [event for event in events if event["action"] != "reset_password"],
        "owner": owner["id"],
        "disabled": (await log_in(client, BOB)).status_code,
    }


async def link(app: FastAPI, email: str) -> str:
    return link_token((await mails_to(app, email))[-1])


async def main(step: str, to: Path) -> None:
    settings = get_settings()
    await migrate(make_url(settings.database_url.get_secret_value()))
    async with running_app(settings) as app, client_for(app) as client:
        found = await rows(app)
        await {"create": create, "read": read}[step](app, client)
        seen = await look(client)
        to.write_text(json.dumps({"found": found, "seen": seen, "left": await rows(app)}))


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
