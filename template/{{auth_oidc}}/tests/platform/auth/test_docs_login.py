"""The login of the docs page: authorization code with PKCE at the provider."""

import base64
import hashlib
import json
import re
from urllib.parse import parse_qs, urlsplit

import httpx2
from fastapi import FastAPI

from app.settings import Settings
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"
REDIRECT = "http://localhost:8000/docs/oauth2-redirect"
VERIFIER = "a" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=")


def login(**changes: str) -> dict[str, str]:
    return {
        "response_type": "code",
        "client_id": "docs",
        "redirect_uri": REDIRECT,
        "scope": "openid admin",
        "state": "xyz",
        "code_challenge": CHALLENGE.decode(),
        "code_challenge_method": "S256",
    } | changes


def token_request(code: str, **changes: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": code,
        "client_id": "docs",
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
    } | changes


async def code_for(provider: httpx2.AsyncClient, address: str) -> str:
    """Sign in on the provider's page; return the authorization code."""
    page = await provider.get(address, params=login())
    fields = dict(re.findall(r'name="(\w+)" (?:type="\w+" )?value="([^"]*)"', page.text))
    back = await provider.post(address, data={**fields, "email": "ada@example.com"})
    target = urlsplit(back.headers["Location"])
    query = parse_qs(target.query)

    assert back.status_code == 303
    assert target._replace(query="").geturl() == REDIRECT
    assert query["state"] == ["xyz"]
    return query["code"][0]


async def test_the_docs_page_signs_in_with_code_and_pkce(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    scheme = app.openapi()["components"]["securitySchemes"]["oidc"]
    configuration = (await client.get(scheme["openIdConnectUrl"])).json()
    origin = {"Origin": "http://localhost:8000"}
    async with httpx2.AsyncClient(headers=origin) as provider:
        code = await code_for(provider, configuration["authorization_endpoint"])
        answer = await provider.post(configuration["token_endpoint"], data=token_request(code))
        again = await provider.post(configuration["token_endpoint"], data=token_request(code))
    tokens = answer.json()
    access, identity = [
        await client.get(ME, headers={"Authorization": f"Bearer {tokens[name]}"})
        for name in ("access_token", "id_token")
    ]

    assert configuration["grant_types_supported"] == ["authorization_code"]
    assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    assert access.status_code == 200
    assert "admin" in access.json()["scopes"]
    assert identity.status_code == 401  # an ID token is not an access token
    assert again.status_code == 400


async def test_the_docs_page_has_its_client_id_and_may_call_the_provider(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    page = await client.get("/docs")
    given = re.search(r"ui\.initOAuth\((\{.*?\})\)", page.text, re.DOTALL)
    for _ in range(2):
        redirect = await client.get("/docs/oauth2-redirect")

    assert given
    assert json.loads(given[1])["clientId"] == "docs"
    assert json.loads(given[1])["usePkceWithAuthorizationCodeGrant"] is True
    assert "/docs/oauth2-redirect" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert f"connect-src 'self' {app.state.settings.oidc_issuer};" in policy
    assert "script-src 'self' 'unsafe-inline'" in redirect.headers["Content-Security-Policy"]
    assert "swaggerUIRedirectOauth2" in redirect.text


async def test_without_a_client_the_docs_page_has_no_login(settings: Settings) -> None:
    changed = settings.model_copy(update={"oidc_client_id": ""})
    async with running_app(changed) as app, client_for(app) as client:
        page = await client.get("/docs")
        redirect = await client.get("/docs/oauth2-redirect")

    assert "initOAuth" not in page.text
    assert "connect-src 'self';" in page.headers["Content-Security-Policy"]
    assert redirect.status_code == 404


async def test_configured_login_parameters_are_added(settings: Settings) -> None:
    changed = settings.model_copy(update={"oidc_login_parameters": "audience=https://a.example"})
    async with running_app(changed) as app, client_for(app) as client:
        page = await client.get("/docs")

    assert '"audience": "https://a.example"' in page.text


async def test_the_development_provider_refuses_other_hosts_and_sites(settings: Settings) -> None:
    async with httpx2.AsyncClient(base_url=settings.oidc_issuer) as provider:
        elsewhere = login(redirect_uri="https://evil.example/")
        stolen = await provider.post("/authorize", data={**elsewhere, "email": "ada@example.com"})
        plain = login(code_challenge_method="plain")
        without_pkce = await provider.post("/authorize", data={**plain, "email": "a@example.com"})
        rebound = await provider.get("/jwks", headers={"Host": "evil.example"})
        foreign = await provider.get("/jwks", headers={"Origin": "https://evil.example"})
        code = await code_for(provider, "/authorize")
        guessed = await provider.post("/token", data=token_request(code, code_verifier="b" * 43))
        nothing = await provider.post("/token", data={})

    refused = (stolen, without_pkce, rebound, guessed, nothing)
    assert [answer.status_code for answer in refused] == [400] * 5
    assert "Access-Control-Allow-Origin" not in foreign.headers
