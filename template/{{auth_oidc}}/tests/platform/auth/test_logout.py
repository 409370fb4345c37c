"""Revocation of tokens; ``test_security.py`` has the simple cases."""

import asyncio
import json
import time
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.auth import audit_log, revocations
from app.settings import Settings
from tests.actors import AUTH, issue, logout_claims, send_logout_token, sign_in
from tests.conftest import client_for, running_app
from tests.platform.auth.forged import EVENT

ME = f"{AUTH}/me"
# Nothing listens there: port 9 is "discard", and below what anyone may bind.
UNREACHABLE_REDIS = "redis://127.0.0.1:9/0"


def token_of(caller: httpx2.AsyncClient) -> str:
    return caller.headers["Authorization"].removeprefix("Bearer ")


async def test_a_logout_revokes_one_token_only(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient
) -> None:
    other = await sign_in(client, "alice@example.com")
    ended = await alice.post(f"{AUTH}/logout")
    codes = [
        (await alice.get(ME)).status_code,
        (await client.get(ME, headers=other)).status_code,
    ]

    assert ended.status_code == 204
    assert codes == [401, 200]


async def test_logout_all_revokes_the_tokens_issued_until_then(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    other = await sign_in(client, "alice@example.com")
    ended_at = time.time()
    assert (await alice.post(f"{AUTH}/logout-all")).status_code == 204
    codes = [
        (await alice.get(ME)).status_code,
        (await client.get(ME, headers=other)).status_code,
        (await bob.get(ME)).status_code,
    ]
    await asyncio.sleep(max(0.0, int(ended_at) + 1 - time.time()))  # tokens know seconds only
    later = await sign_in(client, "alice@example.com")
    while (answer := await client.get(ME, headers=later)).status_code == 401:
        assert time.time() < ended_at + 30
        later = await sign_in(client, "alice@example.com")

    assert codes == [401, 401, 200]
    assert answer.status_code == 200


async def test_a_repeated_logout_token_does_not_revoke_newer_tokens(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient
) -> None:
    subject = logout_claims(token_of(alice), sub="alice@example.com")
    earlier = {**subject, "iat": subject["iat"] - 100}
    answers = [await send_logout_token(client, claims) for claims in (earlier, earlier)]
    before = (await alice.get(ME)).status_code
    answers += [await send_logout_token(client, claims) for claims in (subject, earlier)]
    after = (await alice.get(ME)).status_code

    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    assert (before, after) == (200, 401)


@pytest.mark.parametrize("named", ["sub", "sid"])
async def test_a_logout_by_the_provider_is_in_the_audit_log(
    app: FastAPI, client: httpx2.AsyncClient, alice: httpx2.AsyncClient, named: str
) -> None:
    caller = (await alice.get(ME)).json()["id"]
    named_by = {"sub": "alice@example.com"} if named == "sub" else {"sid": "s-7"}
    await send_logout_token(client, logout_claims(token_of(alice), **named_by))
    async with app.state.db.transaction() as db:
        [event] = await audit_log.list_events(db, 100)

    assert (event.actor, event.action) == ("provider", "backchannel_logout")
    expected = (caller, {}) if named == "sub" else ("unknown", {"session": "s-7"})
    assert (event.subject, event.details) == expected


INVALID: dict[str, dict[str, Any]] = {
    "for another client": {"aud": "another"},
    "from another issuer": {"iss": "https://login.example.com"},
    "expired": {"exp": 1},
    "no expiry": {"exp": None},
    "no time": {"iat": None},
    "no subject or session": {"sub": None, "sid": None},
    "no event": {"events": None},
    "another event": {"events": {"http://schemas.openid.net/event/other": {}}},
    "events that are not an object": {"events": [EVENT]},
    "an event without an object": {"events": {EVENT: 7}},
    "a nonce, as ID tokens have": {"nonce": "x"},
}


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_logout_token_is_refused(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient, wrong: dict[str, Any]
) -> None:
    issuer = logout_claims(token_of(alice))["iss"]
    claims = logout_claims(token_of(alice), sub="alice@example.com") | wrong
    token = await issue(issuer, "", claims=json.dumps(claims), type="logout+jwt")
    answer = await client.post(f"{AUTH}/backchannel-logout", data={"logout_token": token})

    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await alice.get(ME)).status_code == 200


async def test_an_access_token_is_not_accepted_as_logout_token(
    client: httpx2.AsyncClient, alice: httpx2.AsyncClient
) -> None:
    answer = await client.post(f"{AUTH}/backchannel-logout", data={"logout_token": token_of(alice)})

    assert answer.status_code == 400
    assert (await alice.get(ME)).status_code == 200


async def test_logout_tokens_of_unlisted_clients_are_refused(settings: Settings) -> None:
    nobody = settings.model_copy(update={"oidc_logout_clients": []})
    async with running_app(nobody) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        headers = await sign_in(client, "alice@example.com")
        claims = logout_claims(headers["Authorization"][7:], sub="alice@example.com")
        answer = await send_logout_token(client, claims)

        assert answer.status_code == 400
        assert (await client.get(ME, headers=headers)).status_code == 200


async def test_a_logout_takes_effect_in_all_processes(settings: Settings) -> None:
    async with (
        running_app(settings) as one,
        running_app(settings) as two,
        client_for(one) as here,
        client_for(two) as there,
    ):
        await one.state.redis.flushdb()
        headers = await sign_in(here, "alice@example.com")
        before = (await there.get(ME, headers=headers)).status_code
        await here.post(f"{AUTH}/logout", headers=headers)
        after = (await there.get(ME, headers=headers)).status_code

    assert (before, after) == (200, 401)


async def test_expired_revocations_are_deleted(app: FastAPI, alice: httpx2.AsyncClient) -> None:
    kept = app.state.settings.oidc_token_max_age
    await app.state.redis.zadd(revocations.KEY, {"token:old": time.time() - kept - 120})
    await alice.post(f"{AUTH}/logout")

    assert await app.state.redis.zcard(revocations.KEY) == 1
    assert kept <= await app.state.redis.ttl(revocations.KEY) <= kept + 120


def without_redis(settings: Settings, **changes: Any) -> Settings:
    return Settings.model_validate(
        {**settings.model_dump(), "redis_url": UNREACHABLE_REDIS, **changes}
    )


async def test_without_redis_tokens_are_accepted_and_a_logout_fails(
    settings: Settings,
) -> None:
    async with running_app(without_redis(settings)) as app, client_for(app) as client:
        headers = await sign_in(client, "alice@example.com")
        codes = [(await client.get(ME, headers=headers)).status_code for _ in range(3)]
        logout = await client.post(f"{AUTH}/logout", headers=headers)

    assert codes == [200] * 3
    assert logout.status_code == 503
    assert int(logout.headers["Retry-After"]) >= 1


async def test_without_redis_tokens_are_refused_if_revocations_fail_closed(
    settings: Settings,
) -> None:
    strict = without_redis(settings, oidc_revocation_fail_open=False)
    async with running_app(strict) as app, client_for(app) as client:
        answer = await client.get(ME, headers=await sign_in(client, "alice@example.com"))

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1


async def test_revocations_are_checked_again_once_redis_is_available(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        headers = await sign_in(client, "alice@example.com")
        await client.post(f"{AUTH}/logout", headers=headers)
        app.state.revocations._unavailable_until = time.monotonic() + revocations.RETRY_INTERVAL
        away = (await client.get(ME, headers=headers)).status_code
        app.state.revocations._unavailable_until -= revocations.RETRY_INTERVAL
        back = (await client.get(ME, headers=headers)).status_code

    assert (away, back) == (200, 401)
