"""Callers, by the routes of administrators."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from tests.actors import AUTH, sign_in_with
from tests.conftest import client_for

ADMIN = "/api/v1/admin"
ME = f"{AUTH}/me"


@pytest.fixture
async def root(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        client.headers.update(await sign_in_with(app, client, "root@example.com", "admin"))
        yield client


async def events(root: httpx2.AsyncClient, subject: str) -> list[tuple[str, str]]:
    found: list[Any] = (
        await root.get(f"{ADMIN}/audit-events", params={"subject": subject})
    ).json()["items"]
    return [(event["actor"], event["action"]) for event in found]


async def test_the_sessions_of_a_caller_end_at_the_next_request(
    root: httpx2.AsyncClient, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    caller = (await alice.get(ME)).json()["id"]
    ended = await root.post(f"{ADMIN}/callers/{caller}/end-sessions")

    assert ended.status_code == 204
    assert [(await each.get(ME)).status_code for each in (alice, bob, root)] == [401, 200, 200]
    me = (await root.get(ME)).json()["id"]
    assert await events(root, caller) == [(me, "caller_end_sessions")]


async def test_a_caller_who_ends_their_sessions_is_in_the_audit_log(
    root: httpx2.AsyncClient, alice: httpx2.AsyncClient
) -> None:
    caller = (await alice.get(ME)).json()["id"]
    await alice.post(f"{AUTH}/logout-all")

    assert await events(root, caller) == [(caller, "logout_all")]
