import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from sqlalchemy import func, update

from app import about, signing
from app.auth.models import Account
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_of

ME = "/api/v1/auth/me"
Forge = Callable[[dict[str, Any], Settings], str]


def key_of(settings: Settings) -> bytes:
    return signing.derive_key(settings, "access token")


def sign(claims: dict[str, Any], key: bytes, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


def by_hand(header: dict[str, str], claims: dict[str, Any], key: bytes) -> str:
    """Sign with HMAC-SHA256 whatever the header says."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(key, text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {claim: value for claim, value in claims.items() if claim != name}


FORGED: dict[str, Forge] = {
    "expired": lambda c, s: sign({**c, "exp": int(time.time()) - 10}, key_of(s)),
    "not yet issued": lambda c, s: sign({**c, "iat": int(time.time()) + 60}, key_of(s)),
    "another audience": lambda c, s: sign({**c, "aud": "another"}, key_of(s)),
    "several audiences": lambda c, s: sign({**c, "aud": [about.NAME, "another"]}, key_of(s)),
    "another issuer": lambda c, s: sign({**c, "iss": "another"}, key_of(s)),
    "another session": lambda c, s: sign({**c, "sid": c["sub"]}, key_of(s)),
    "another account": lambda c, s: sign({**c, "sub": c["sid"]}, key_of(s)),
    "no session": lambda c, s: sign(without(c, "sid"), key_of(s)),
    "no expiry": lambda c, s: sign(without(c, "exp"), key_of(s)),
    "no audience": lambda c, s: sign(without(c, "aud"), key_of(s)),
    "ids that are none": lambda c, s: sign({**c, "sid": "1 OR 1=1"}, key_of(s)),
    "a scope that is no text": lambda c, s: sign({**c, "scope": ["admin"]}, key_of(s)),
    "the secret itself as key": lambda c, s: sign(c, s.secret_key.get_secret_value().encode()),
    "a key for something else": lambda c, s: sign(c, signing.derive_key(s, "refresh token")),
    "another key": lambda c, s: sign(c, b"0" * 32),
    "alg none": lambda c, s: jwt.encode(c, None, "none"),
    "alg none, signed": lambda c, s: by_hand({"alg": "none", "typ": "JWT"}, c, key_of(s)),
    "another hash": lambda c, s: sign(c, key_of(s) * 2, "HS512"),
    "key confusion": lambda c, s: by_hand({"alg": "RS256", "typ": "JWT"}, c, key_of(s)),
    "claims changed": lambda c, s: swap_claims(sign(c, key_of(s)), {**c, "scope": "admin"}),
    "no signature": lambda c, s: sign(c, key_of(s)).rpartition(".")[0] + ".",
    "garbage": lambda c, s: "garbage",
    "dots": lambda c, s: "..",
    "not ASCII": lambda c, s: "é.é.é",
    "very long": lambda c, s: "a" * 50_000,
    "empty": lambda c, s: "",
}


def swap_claims(token: str, claims: dict[str, Any]) -> str:
    header, _, signature = token.split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{body}.{signature}"


@pytest.fixture
def claims(alice: httpx2.AsyncClient) -> dict[str, Any]:
    """What a valid token of Alice says."""
    token = alice.headers["Authorization"].removeprefix("Bearer ")
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"Authorization": b"Bearer " + token.encode("latin-1")}


async def test_a_token_says_who_for_whom_and_until_when(
    settings: Settings, claims: dict[str, Any], client: httpx2.AsyncClient
) -> None:
    assert set(claims) == {"iss", "aud", "iat", "exp", "jti", "sub", "sid", "scope"}
    assert claims["exp"] - claims["iat"] == settings.access_token_lifetime == 600
    # What the forgeries below are made from is good.
    answer = await client.get(ME, headers=bearer(sign(claims, key_of(settings))))
    assert answer.json()["email"] == "alice@example.com"


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_token_that_is_not_right_is_refused(
    settings: Settings, claims: dict[str, Any], client: httpx2.AsyncClient, forge: Forge
) -> None:
    answer = await client.get(ME, headers=bearer(forge(claims, settings)))

    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "bearer"])
async def test_who_sends_no_token_is_asked_for_one(
    client: httpx2.AsyncClient, header: str | None
) -> None:
    answer = await client.get(ME, headers={"Authorization": header} if header is not None else {})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_logout_is_felt_at_once_and_by_this_session_only(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with client_of(app) as elsewhere:
        elsewhere.headers.update(await sign_in(elsewhere, "alice@example.com"))
        assert (await alice.post("/api/v1/auth/logout")).status_code == 204
        answers = [(await c.get(ME)).status_code for c in (alice, elsewhere, bob)]

    assert answers == [401, 200, 200]


async def test_logging_out_everywhere_ends_all_sessions_of_one_account(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with client_of(app) as elsewhere:
        elsewhere.headers.update(await sign_in(elsewhere, "alice@example.com"))
        assert (await alice.post("/api/v1/auth/logout-all")).status_code == 204
        answers = [(await c.get(ME)).status_code for c in (alice, elsewhere, bob)]

    assert answers == [401, 401, 200]


async def test_disabling_an_account_is_felt_at_once(
    app: FastAPI, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    async with app.state.db.transaction() as db:
        of_alice = update(Account).where(Account.email == "alice@example.com")
        await db.execute(of_alice.values(disabled_at=func.now()))

    assert [(await c.get(ME)).status_code for c in (alice, bob)] == [401, 200]
