"""Users, by the routes of administrators: each has the effect of its command."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI

from tests.accounts import AUTH, allow
from tests.actors import sign_in, sign_in_with
from tests.conftest import client_for
from tests.mail import mails_to

USERS = "/api/v1/admin/users"
EVENTS = "/api/v1/admin/audit-events"
ME = f"{AUTH}/me"
ROOT, ADA, BOB = "root@example.com", "ada@example.com", "bob@example.com"


@pytest.fixture
async def root(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """An administrator by role."""
    async with client_for(app) as client:
        client.headers.update(await sign_in_with(app, client, ROOT, "admin"))
        await client.put(f"{USERS}/{await id_of(client, ROOT)}/roles/admin")
        await allow(app, ROOT)
        yield client


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        client.headers.update(await sign_in(client, ADA))
        yield client


async def id_of(root: httpx2.AsyncClient, email: str) -> str:
    [user] = (await root.get(USERS, params={"email": email.upper()})).json()["items"]
    found: str = user["id"]
    return found


async def change(
    root: httpx2.AsyncClient, path: str, email: str = ADA, method: str = "POST"
) -> httpx2.Response:
    return await root.request(method, f"{USERS}/{await id_of(root, email)}/{path}")


async def actions(root: httpx2.AsyncClient, email: str = ADA) -> list[tuple[str, str]]:
    """Actor and action of the audit log about a user, oldest first."""
    query = {"subject": await id_of(root, email), "sort": "id"}
    found = (await root.get(EVENTS, params=query)).json()["items"]
    return [(event["actor"], event["action"]) for event in found]


async def test_a_role_is_given_and_taken_at_the_next_request(
    root: httpx2.AsyncClient, ada: httpx2.AsyncClient
) -> None:
    seen: list[Any] = [(await ada.get(USERS)).status_code]
    granted = await change(root, "roles/admin", method="PUT")
    seen.append((await ada.get(USERS)).status_code)
    revoked = await change(root, "roles/admin", method="DELETE")
    seen.append((await ada.get(USERS)).status_code)

    assert seen == [403, 200, 403]
    assert [answer.json()["roles"] for answer in (granted, revoked)] == [["admin"], []]
    who = await id_of(root, ROOT)
    assert (await actions(root))[-2:] == [(who, "role_grant"), (who, "role_revoke")]


@pytest.mark.parametrize("task", ["disable", "end-sessions", "reset-password"])
async def test_sessions_end_at_the_next_request(
    app: FastAPI, root: httpx2.AsyncClient, ada: httpx2.AsyncClient, task: str
) -> None:
    before = (await ada.get(ME)).status_code
    answer = await change(root, task)

    assert (before, (await ada.get(ME)).status_code) == (200, 401)
    assert (answer.status_code, answer.json()["sessions"]) == (200, 0)
    assert bool(answer.json()["disabled_at"]) == (task == "disable")
    mails = await mails_to(app, ADA)  # the first one confirms the address
    assert len(mails) == (2 if task == "reset-password" else 1)
    action = f"user_{task.replace('-', '_')}"
    assert (await actions(root))[-1] == (await id_of(root, ROOT), action)


async def test_a_disabled_user_logs_in_again_once_enabled(
    root: httpx2.AsyncClient, ada: httpx2.AsyncClient
) -> None:
    await change(root, "disable")
    with pytest.raises(httpx2.HTTPStatusError):
        await sign_in(ada, ADA)
    refused = await change(root, "reset-password")
    enabled = await change(root, "enable")

    assert (refused.status_code, enabled.json()["disabled_at"]) == (409, None)
    assert (await ada.get(ME, headers=await sign_in(ada, ADA))).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("DELETE", "roles/admin"), ("POST", "disable")])
async def test_the_last_administrator_stays(
    root: httpx2.AsyncClient, method: str, path: str
) -> None:
    refused = await change(root, path, ROOT, method)

    assert refused.status_code == 409
    assert "the last administrator" in refused.json()["detail"]
    assert (await root.get(USERS)).status_code == 200


async def test_the_list_is_filtered_and_paged(
    root: httpx2.AsyncClient, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    await change(root, "disable", BOB)

    async def emails(**query: Any) -> list[str]:
        answer = await root.get(USERS, params=query)
        return [user["email"] for user in answer.json()["items"]]

    first = (await root.get(USERS, params={"limit": 2})).json()
    second = await emails(cursor=first["next"], limit=2)
    assert sorted([*(user["email"] for user in first["items"]), *second]) == [ADA, BOB, ROOT]
    assert await emails(role="admin") == [ROOT]
    assert await emails(disabled=True) == [BOB]
    assert set(await emails(disabled=False)) == {ROOT, ADA}
    assert await emails(email="nobody@example.com") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", "/roles/admin"),
        ("DELETE", "/roles/admin"),
        ("POST", "/disable"),
        ("POST", "/enable"),
        ("POST", "/end-sessions"),
        ("POST", "/reset-password"),
    ],
)
async def test_an_unknown_user_is_not_found(
    root: httpx2.AsyncClient, method: str, path: str
) -> None:
    assert (await root.request(method, f"{USERS}/{uuid4()}{path}")).status_code == 404


async def test_an_unknown_role_is_not_given(
    root: httpx2.AsyncClient, ada: httpx2.AsyncClient
) -> None:
    answer = await change(root, "roles/king", method="PUT")

    assert answer.status_code == 404
    assert "There is no role king" in answer.json()["detail"]
