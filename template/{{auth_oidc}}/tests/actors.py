"""Sign-in for tests, and invalid credentials for the security tests.

The provider is that of ``app dev``, in a process of its own.
"""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy.engine import URL

from tests.platform.auth.forged import EVENT, WRONG_CLAIMS, WRONG_TYPES, claims_of, forgeries

__all__ = [
    "REVOCATIONS",
    "hostile_credentials",
    "seed",
    "sign_in",
    "sign_in_with",
    "smoke_credentials",
]

AUTH = "/api/v1/auth"

Headers = dict[str, str]
Revocation = Callable[[FastAPI, httpx2.AsyncClient, str, Headers], Awaitable[None]]


async def seed(database: URL) -> None:
    """No seed data needed."""


async def issue(issuer: str, email: str, **form: str) -> str:
    """A token of the provider; ``form``: its ``claims`` (JSON) and ``type``."""
    data = {"grant_type": "client_credentials", "client_id": email, **form}
    async with httpx2.AsyncClient(base_url=issuer, verify=False) as provider:
        answer = (await provider.post("/token", data=data)).raise_for_status()
    token: str = answer.json()["access_token"]
    return token


async def sign_in(client: httpx2.AsyncClient, email: str, scope: str = "") -> Headers:
    """Get a token from the service's provider; return the header that has it."""
    configuration = (await client.get(f"{AUTH}/openid-configuration")).raise_for_status().json()
    return {"Authorization": f"Bearer {await issue(configuration['issuer'], email, scope=scope)}"}


async def smoke_credentials(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """The variables of ``deploy/login.sh``."""
    return {"SMOKE_CLIENT_ID": email, "SMOKE_CLIENT_SECRET": "any"}


async def sign_in_with(
    app: FastAPI, client: httpx2.AsyncClient, email: str, *scopes: str
) -> Headers:
    """Sign in as a caller with ``scopes``."""
    return await sign_in(client, email, " ".join(scopes))


async def hostile_credentials(app: FastAPI, good: str) -> dict[str, str]:
    """Invalid access tokens by name, derived from a valid one."""
    claims = claims_of(good)
    issuer = claims["iss"]
    hostile = {
        name: await issue(issuer, claims["sub"], claims=json.dumps(claims | wrong))
        for name, wrong in WRONG_CLAIMS.items()
    }
    for type_ in WRONG_TYPES:
        hostile[type_] = await issue(issuer, claims["sub"], claims=json.dumps(claims), type=type_)
    async with httpx2.AsyncClient(base_url=issuer, verify=False) as provider:
        return hostile | forgeries(good, (await provider.get("/jwks")).json())


def logout_claims(good: str, **about: Any) -> dict[str, Any]:
    """The claims of a logout token for the caller of a valid access token."""
    access = claims_of(good)
    now = int(time.time())
    claims = {"iss": access["iss"], "aud": "docs", "iat": now, "exp": now + 120, "jti": "1"}
    return {**claims, "sub": None, "sid": None, "scope": None, "events": {EVENT: {}}, **about}


async def send_logout_token(client: httpx2.AsyncClient, claims: dict[str, Any]) -> httpx2.Response:
    """Send a back-channel logout with these claims."""
    form = {"claims": json.dumps(claims), "type": "logout+jwt"}
    token = await issue(claims["iss"], "", **form)
    return await client.post(f"{AUTH}/backchannel-logout", data={"logout_token": token})


def _by_route(path: str) -> Revocation:
    async def revoke(_: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
        (await client.post(f"{AUTH}/{path}", headers=headers)).raise_for_status()

    return revoke


def _by_provider(claim: str) -> Revocation:
    async def revoke(_: FastAPI, client: httpx2.AsyncClient, email: str, headers: Headers) -> None:
        good = headers["Authorization"].removeprefix("Bearer ")
        claims = logout_claims(good, **{claim: claims_of(good)[claim]})
        (await send_logout_token(client, claims)).raise_for_status()

    return revoke


REVOCATIONS: dict[str, Revocation] = {
    "logout": _by_route("logout"),
    "logout everywhere": _by_route("logout-all"),
    "the provider ends the session": _by_provider("sid"),
    "the provider ends all of a subject": _by_provider("sub"),
}
