"""Access tokens beyond what every style holds (test_security.py): what they say, and no more."""

import httpx2
from fastapi import FastAPI

from app.settings import Settings
from tests.accounts import allow
from tests.actors import sign_in_with
from tests.auth.forged import claims_of

ME = "/api/v1/auth/me"
EMAIL = "ada@example.com"


async def test_a_token_says_who_for_whom_and_until_when(
    settings: Settings, alice: httpx2.AsyncClient
) -> None:
    claims = claims_of(alice.headers["Authorization"].removeprefix("Bearer "))

    assert set(claims) == {"iss", "aud", "iat", "exp", "jti", "sub", "sid", "scope"}
    assert claims["exp"] - claims["iat"] == settings.access_token_lifetime == 600


async def scopes(client: httpx2.AsyncClient, headers: dict[str, str]) -> list[str]:
    answer: list[str] = (await client.get(ME, headers=headers)).json()["scopes"]
    return answer


async def test_a_scope_that_is_taken_away_is_felt_at_once(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in_with(app, client, EMAIL, "things:read", "things:write")
    assert await scopes(client, headers) == ["things:read", "things:write"]
    await allow(app, EMAIL, "things:read")

    assert await scopes(client, headers) == ["things:read"]


async def test_a_token_never_does_more_than_it_says(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in_with(app, client, EMAIL)
    await allow(app, EMAIL, "things:read", "things:write")

    assert await scopes(client, headers) == []
