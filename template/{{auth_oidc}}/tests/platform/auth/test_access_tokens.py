"""Valid access tokens and their claims; ``test_security.py`` has the invalid ones."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx2
import jwt
import pytest
from fastapi import FastAPI

from app.platform.auth import tokens
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.auth.conftest import Peer
from tests.platform.auth.forged import NOW, WRONG_CLAIMS

ME = "/api/v1/auth/me"

VALID: dict[str, dict[str, Any]] = {
    "several audiences": {"aud": ["another", "AUDIENCE"]},
    "a clock that is a little ahead": {"iat": NOW + 1800, "nbf": NOW + 1800},
    "a clock that is a little behind": {"exp": NOW - 1800},
    "no session": {"sid": None},
    "no id": {"jti": None},
    "of Keycloak": {"typ": "Bearer"},
    "of Cognito": {"token_use": "access"},
}


@pytest.fixture
async def known(peer: Peer) -> AsyncIterator[Peer]:
    async with peer.up():
        yield peer


async def me(app: FastAPI, headers: dict[str, str]) -> httpx2.Response:
    async with client_for(app) as client:
        return await client.get(ME, headers=headers)


@pytest.mark.parametrize("claims", VALID.values(), ids=VALID.keys())
async def test_tokens_of_common_providers_are_accepted(
    service: FastAPI, known: Peer, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LEEWAY", 3600)  # however slow this machine is
    audience = service.state.settings.oidc_audience
    changed = json.loads(json.dumps(claims).replace("AUDIENCE", audience))

    assert (await me(service, known.headers(**changed))).status_code == 200


@pytest.mark.parametrize("type_", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT"])
async def test_accepted_token_types(service: FastAPI, known: Peer, type_: str) -> None:
    token = known.provider.sign(known.provider.claims("ada"), type_)

    assert (await me(service, {"Authorization": f"bearer {token}"})).status_code == 200


async def test_the_wrong_claims_of_the_security_tests_are_otherwise_valid(
    service: FastAPI, known: Peer
) -> None:
    good = known.provider.claims("ada@example.com")
    codes = [
        (await me(service, known.headers(**{name: good.get(name) for name in wrong}))).status_code
        for wrong in WRONG_CLAIMS.values()
    ]

    assert set(codes) == {200}


SCOPES: dict[str, dict[str, Any]] = {
    "a string": {"scope": "a b"},
    "a list": {"scope": None, "scp": ["a", "b"]},
    "a string of Entra": {"scope": None, "scp": "a b"},
    "roles of Entra": {"scope": None, "scp": "a", "roles": ["b"]},
    "nested": {"scope": None, "realm_access": {"roles": ["a", "b"]}},
    "a URL as name": {"scope": None, "https://example.com/roles": ["a", "b"]},
    "several claims": {"scope": "a", "scp": ["b"], "roles": "a"},
}


@pytest.mark.parametrize("claims", SCOPES.values(), ids=SCOPES.keys())
async def test_scopes_are_read_from_the_configured_claims(
    trusting_settings: Settings, known: Peer, claims: dict[str, Any]
) -> None:
    names = ["scope", "scp", "roles", "realm_access.roles", "https://example.com/roles"]
    changed = trusting_settings.model_copy(update={"oidc_scope_claims": names})
    async with running_app(changed) as app:
        answer = await me(app, known.headers(**claims))

    assert answer.json()["scopes"] == ["a", "b"]


@pytest.mark.parametrize("value", [7, None, {"a": True}, [7, None, ["a"]], "", [], True])
async def test_malformed_scopes_are_ignored(service: FastAPI, known: Peer, value: Any) -> None:
    answer = await me(service, known.headers(scope=value))

    assert (answer.status_code, answer.json()["scopes"]) == (200, [])


async def test_claims_that_are_not_configured_are_ignored(service: FastAPI, known: Peer) -> None:
    answer = await me(service, known.headers(scope="a", realm_access={"roles": ["admin"]}))

    assert answer.json()["scopes"] == ["a"]


async def test_the_callers_id_depends_on_issuer_and_subject_only(
    service: FastAPI, known: Peer, client: httpx2.AsyncClient
) -> None:
    first = (await me(service, known.headers(sub="1"))).json()["id"]
    again = (await me(service, known.headers(sub="1", sid="x", scope="a"))).json()["id"]
    other = (await me(service, known.headers(sub="2"))).json()["id"]
    elsewhere = (await client.get(ME, headers=await sign_in(client, "1"))).json()["id"]

    assert first == again
    assert UUID(first).version == 5
    assert len({first, other, elsewhere}) == 3


async def test_an_algorithm_that_is_not_configured_is_refused(
    trusting_settings: Settings, known: Peer
) -> None:
    strict = trusting_settings.model_copy(update={"oidc_algorithms": ["RS256", "EdDSA", "ES256"]})
    stricter = trusting_settings.model_copy(update={"oidc_algorithms": ["RS256"]})
    async with running_app(strict) as app:
        accepted = await me(app, known.headers())
    async with running_app(stricter) as app:
        refused = await me(app, known.headers())

    # The provider's only key is for an algorithm that the second service does not accept.
    assert (accepted.status_code, refused.status_code) == (200, 401)


async def test_a_token_is_verified_once(
    service: FastAPI, known: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = known.headers()
    first = await me(service, headers)
    monkeypatch.delattr(jwt, "decode")
    assert (await me(service, headers)).json() == first.json()


async def test_a_verified_token_is_refused_once_it_has_expired(
    service: FastAPI, known: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = int(time.time()) - 60
    monkeypatch.setattr(tokens, "LEEWAY", time.time() - expires + 0.2)
    service.state.tokens = tokens.Tokens(service.state.settings, service.state.keys)
    headers = known.headers(exp=expires)
    assert (await me(service, headers)).status_code == 200
    while time.time() <= expires + tokens.LEEWAY:  # noqa: ASYNC110 (a time has no event)
        await asyncio.sleep(0.01)
    assert (await me(service, headers)).status_code == 401


async def test_a_verified_token_is_refused_once_it_is_too_old(
    service: FastAPI, known: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    age = service.state.settings.oidc_token_max_age
    issued = int(time.time()) - age - 60
    monkeypatch.setattr(tokens, "LEEWAY", time.time() - age - issued + 0.2)
    service.state.tokens = tokens.Tokens(service.state.settings, service.state.keys)
    headers = known.headers(iat=issued, exp=int(time.time()) + 60)
    assert (await me(service, headers)).status_code == 200
    while time.time() <= issued + age + tokens.LEEWAY:  # noqa: ASYNC110 (a time has no event)
        await asyncio.sleep(0.01)
    assert (await me(service, headers)).status_code == 401
