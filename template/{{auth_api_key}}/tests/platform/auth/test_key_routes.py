"""Key routes: callers manage their own keys, and cannot gain scopes."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from app.platform.auth import key_format
from app.platform.auth.models import ApiKey
from tests.actors import AS_ADMIN, KEYS, key_in, sign_in
from tests.conftest import client_for

ME = "/api/v1/auth/me"
EMAIL = "carol@example.com"


@pytest.fixture
async def carol(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller with the scope that manages her own keys."""
    async with client_for(app) as client:
        client.headers.update(await sign_in(client, EMAIL, "keys", "orders:read"))
        yield client


async def create(caller: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await caller.post(KEYS, json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


async def status(client: httpx2.AsyncClient, key: str) -> int:
    return (await client.get(ME, headers={"Authorization": f"Bearer {key}"})).status_code


def own_id(caller: httpx2.AsyncClient) -> str:
    return key_format.parse_id(key_in(caller.headers))


async def test_a_new_key_has_the_requested_scopes_and_expiry(carol: httpx2.AsyncClient) -> None:
    new = await create(carol, scopes=["orders:read"], expires_in_days=30)
    me = await carol.get(ME, headers={"Authorization": f"Bearer {new['key']}"})
    left = datetime.fromisoformat(new["expires_at"]) - datetime.now(UTC)

    assert me.json() == {"id": new["owner"], "scopes": ["orders:read"], "key_id": new["id"]}
    assert new["owner"] == (await carol.get(ME)).json()["id"]
    assert timedelta(days=29) < left <= timedelta(days=30)


async def test_a_key_expires_by_default(carol: httpx2.AsyncClient) -> None:
    new = await create(carol)
    left = datetime.fromisoformat(new["expires_at"]) - datetime.now(UTC)

    assert timedelta(days=89) < left <= timedelta(days=90)


async def test_a_list_of_keys_has_no_secrets(carol: httpx2.AsyncClient) -> None:
    new = await create(carol)
    listed = await carol.get(KEYS)

    assert [key["id"] for key in listed.json()] == [new["id"], own_id(carol)]
    assert new["key"][21:73] not in listed.text
    assert listed.headers["Cache-Control"] == "no-store"


async def test_a_key_cannot_create_one_with_more_scopes(carol: httpx2.AsyncClient) -> None:
    refused = [
        await carol.post(KEYS, json={"scopes": scopes})
        for scopes in (["admin"], ["keys:admin"], ["orders:read", "orders:write"])
    ]

    assert [answer.status_code for answer in refused] == [403] * 3
    assert len((await carol.get(KEYS)).json()) == 1


async def test_rotating_another_key_of_the_owner_grants_no_scopes(
    app: FastAPI, client: httpx2.AsyncClient, carol: httpx2.AsyncClient
) -> None:
    stronger = await sign_in(client, EMAIL, "keys", "admin")
    where = f"{KEYS}/{key_format.parse_id(key_in(stronger))}/rotate"

    assert (await carol.post(where, json={})).status_code == 403
    assert await status(client, key_in(stronger)) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("POST", "/{id}/rotate"), ("DELETE", "/{id}")],
)
async def test_every_key_route_requires_the_scope(
    alice: httpx2.AsyncClient, method: str, path: str
) -> None:
    url = KEYS + path.format(id=own_id(alice))
    answer = await alice.request(method, url, json={} if method == "POST" else None)

    assert answer.status_code == 403
    assert 'scope="keys"' in answer.headers["WWW-Authenticate"]


async def test_keys_of_other_owners_are_not_accessible(
    client: httpx2.AsyncClient, carol: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    other = f"{KEYS}/{own_id(bob)}"
    unknown = f"{KEYS}/{'f' * 16}"
    for url in (other, unknown):
        assert (await carol.delete(url)).status_code == 404
        assert (await carol.post(f"{url}/rotate", json={})).status_code == 404
    owner = (await bob.get(ME)).json()["id"]
    assert (await carol.get(KEYS, params={"owner": owner})).status_code == 403
    assert (await carol.post(KEYS, json={"owner": owner})).status_code == 403
    assert (await bob.get(ME)).status_code == 200


async def test_the_admin_scope_manages_all_keys(
    client: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    client.headers.update(AS_ADMIN)
    owner = (await bob.get(ME)).json()["id"]
    new = await create(client, owner=owner, scopes=["anything"])
    listed = (await client.get(KEYS, params={"owner": owner})).json()
    revoked = await client.delete(f"{KEYS}/{own_id(bob)}")

    assert {key["id"] for key in listed} == {new["id"], own_id(bob)}
    assert revoked.status_code == 204
    assert (await bob.get(ME)).status_code == 401


@pytest.mark.parametrize("expires", [True, False])
async def test_both_keys_are_valid_during_the_overlap_of_a_rotation(
    app: FastAPI, carol: httpx2.AsyncClient, expires: bool
) -> None:
    if not expires:
        forever = update(ApiKey).where(ApiKey.id == own_id(carol)).values(expires_at=None)
        async with app.state.db.transaction() as session:
            await session.execute(forever)
    answer = await carol.post(f"{KEYS}/{own_id(carol)}/rotate", json={"overlap_hours": 1})
    new = answer.json()
    old = next(key for key in (await carol.get(KEYS)).json() if key["id"] == own_id(carol))
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)

    assert answer.status_code == 201
    assert new["scopes"] == ["keys", "orders:read"]
    assert await status(carol, new["key"]) == 200
    assert timedelta(minutes=50) < left <= timedelta(hours=1)


async def test_a_rotation_does_not_extend_the_old_key(carol: httpx2.AsyncClient) -> None:
    short = await create(carol, scopes=["keys"], expires_in_days=1)
    await carol.post(f"{KEYS}/{short['id']}/rotate", json={"overlap_hours": 168})
    listed = {key["id"]: key for key in (await carol.get(KEYS)).json()}

    assert listed[short["id"]]["expires_at"] == short["expires_at"]


async def test_a_revoked_key_cannot_be_rotated(carol: httpx2.AsyncClient) -> None:
    new = await create(carol)
    assert (await carol.delete(f"{KEYS}/{new['id']}")).status_code == 204
    when = (await carol.get(KEYS)).json()[0]["revoked_at"]
    assert (await carol.delete(f"{KEYS}/{new['id']}")).status_code == 204
    assert (await carol.post(f"{KEYS}/{new['id']}/rotate", json={})).status_code == 409

    assert (await carol.get(KEYS)).json()[0]["revoked_at"] == when
    assert await status(carol, new["key"]) == 401


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": ["two words"]},
        {"scopes": [""]},
        {"scopes": ["\0"]},
        {"scopes": ["a"] * 51},
        {"owner": "Ada Lovelace"},
        {"owner": "ada@example.com"},
        {"owner": ""},
        {"expires_in_days": 0},
        {"expires_in_days": 10_000},
    ],
)
async def test_invalid_keys_are_refused(carol: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    assert (await carol.post(KEYS, json=body)).status_code == 422


@pytest.mark.parametrize("key_id", ["%00", "x" * 300, "%ED%A0%80", "'%20OR%201=1"])
async def test_a_malformed_id_is_not_found(carol: httpx2.AsyncClient, key_id: str) -> None:
    assert (await carol.delete(f"{KEYS}/{key_id}")).status_code in (404, 422)


async def test_the_audit_log_has_key_events_but_no_keys(
    carol: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    new = await create(carol)
    second = (await carol.post(f"{KEYS}/{new['id']}/rotate", json={})).json()
    await carol.delete(f"{KEYS}/{new['id']}")
    output = capfd.readouterr().out

    events = [json.loads(line) for line in output.splitlines() if '"audit.' in line]
    assert [(line["event"], line["subject"]) for line in events] == [
        ("audit.key_create", new["owner"]),
        ("audit.key_rotate", new["owner"]),
        ("audit.key_revoke", new["owner"]),
    ]
    assert [key for key in (new["key"], second["key"]) if key in output] == []
