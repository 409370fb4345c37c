"""Claims and scopes of access tokens; ``test_security.py`` has what every auth style guarantees."""

import httpx2
from fastapi import FastAPI

from app.settings import Settings
from tests.accounts import allow
from tests.actors import sign_in_with
from tests.auth.forged import claims_of

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
