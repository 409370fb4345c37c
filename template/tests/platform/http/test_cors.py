"""CORS: preflight responses, and which origins can read a response."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.http import cors
from app.platform.settings import SettingsError
from app.settings import Settings, get_settings
from tests.conftest import client_for, running_platform

ALLOWED = "https://app.example.com"
OTHER = "https://evil.test"
URL = "/health/live"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    changes = {"cors_origins": [ALLOWED], "cors_allow_credentials": True}
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        client_for(app) as client,
    ):
        yield client


def preflight(origin: str, method: str = "POST", headers: str = "authorization") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


async def test_an_allowed_origin_may_call_and_caches_preflights(client: httpx2.AsyncClient) -> None:
    preflight_response = await client.options(URL, headers=preflight(ALLOWED))
    response = await client.get(URL, headers={"Origin": ALLOWED})

    assert preflight_response.status_code == 200
    assert preflight_response.headers["Access-Control-Max-Age"] == "600"
    assert response.headers["Access-Control-Allow-Origin"] == ALLOWED
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert "ETag" in response.headers["Access-Control-Expose-Headers"]
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    "headers",
    [
        preflight(OTHER),
        preflight("null"),
        preflight(ALLOWED, "TRACE"),
        preflight(ALLOWED, headers="x-a"),
    ],
)
async def test_other_origins_methods_and_headers_are_refused(
    client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.options(URL, headers=headers)
    assert (response.status_code, response.headers["Content-Type"]) == (
        400,
        "application/problem+json",
    )
    assert response.json()["detail"].startswith("Disallowed CORS ")
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


async def test_a_component_can_allow_another_request_header(settings: Settings) -> None:
    app = FastAPI()
    cors.allow(app, "X-One")
    cors.allow(app, "X-Two")
    cors.setup(app, settings.model_copy(update={"cors_origins": [ALLOWED]}))
    headers = preflight(ALLOWED, headers="x-one,x-two,if-match")
    async with client_for(app) as client:
        response = await client.options(URL, headers=headers)

    assert response.status_code == 200


async def test_other_origins_cannot_read_a_response(client: httpx2.AsyncClient) -> None:
    response = await client.get(URL, headers={"Origin": OTHER})

    assert "Access-Control-Allow-Origin" not in response.headers


async def test_an_allowed_origin_can_read_errors_of_the_middleware(settings: Settings) -> None:
    changes = {"cors_origins": [ALLOWED], "max_in_flight": 0}
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        client_for(app) as client,
    ):
        response = await client.get("/api/v1/unknown", headers={"Origin": ALLOWED})

    assert response.status_code == 503
    assert response.headers["Access-Control-Allow-Origin"] == ALLOWED


async def test_no_origin_is_allowed_by_default(settings: Settings) -> None:
    async with running_platform(settings) as app, client_for(app) as client:
        preflight_response = await client.options(URL, headers=preflight(ALLOWED))
        response = await client.get(URL, headers={"Origin": ALLOWED})

    assert preflight_response.status_code == 405
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"]
)
async def test_an_invalid_origin_fails_at_startup(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORS_ORIGINS", f"{ALLOWED}, {origin}")

    with pytest.raises(SettingsError, match=r"CORS_ORIGINS: .* is not an origin"):
        get_settings()
