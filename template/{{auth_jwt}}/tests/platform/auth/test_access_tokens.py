"""Claims and scopes of access tokens; ``test_security.py`` has what every auth style guarantees."""

import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx2
import jwt
import pytest
from fastapi import FastAPI

from app.platform.auth import tokens
from app.platform.auth.identity import InvalidCredentials
from app.platform.auth.tokens import AccessClaims, Tokens
from app.settings import Settings
from tests.accounts import allow
from tests.actors import sign_in_with
from tests.platform.auth.forged import claims_of, key_of, sign

ME = "/api/v1/auth/me"
EMAIL = "ada@example.com"


async def test_a_token_has_the_documented_claims_and_lifetime(
    settings: Settings, alice: httpx2.AsyncClient
) -> None:
    claims = claims_of(alice.headers["Authorization"].removeprefix("Bearer "))

    assert set(claims) == {"iss", "aud", "iat", "exp", "jti", "sub", "sid", "scope"}
    assert claims["exp"] - claims["iat"] == settings.access_token_lifetime == 600


async def scopes(client: httpx2.AsyncClient, headers: dict[str, str]) -> list[str]:
    answer: list[str] = (await client.get(ME, headers=headers)).json()["scopes"]
    return answer


async def test_a_revoked_scope_takes_effect_immediately(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in_with(app, client, EMAIL, "things:read", "things:write")
    assert await scopes(client, headers) == ["things:read", "things:write"]
    await allow(app, EMAIL, "things:read")

    assert await scopes(client, headers) == ["things:read"]


async def test_a_token_grants_only_the_scopes_that_it_lists(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in_with(app, client, EMAIL)
    await allow(app, EMAIL, "things:read", "things:write")

    assert await scopes(client, headers) == []


def issue(settings: Settings) -> str:
    access = AccessClaims(uuid4(), uuid4(), frozenset())
    return Tokens(settings).issue_access(access, b"secret", datetime.now(UTC))


def test_a_token_is_verified_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    token, reader = issue(settings), Tokens(settings)
    access = reader.read_access(token)
    monkeypatch.delattr(jwt, "decode")
    assert reader.read_access(token) == access


def test_a_verified_token_is_refused_once_it_has_expired(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = int(time.time()) - 60
    monkeypatch.setattr(tokens, "LEEWAY", time.time() - expires + 0.1)
    token = sign({**claims_of(issue(settings)), "exp": expires}, key_of(settings))
    reader = Tokens(settings)
    assert reader.read_access(token) == reader.read_access(token)
    while time.time() <= expires + tokens.LEEWAY:
        time.sleep(0.01)
    with pytest.raises(InvalidCredentials, match="expired"):
        reader.read_access(token)
