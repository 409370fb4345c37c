from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.http import cors
from app.platform.settings import SettingsError
from app.settings import Settings, get_settings
from tests.conftest import client_for, running_app

OURS = "https://app.example.com"
THEIRS = "https://evil.test"
URL = "/health/live"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    changed = settings.model_copy(update={"cors_origins": [OURS], "cors_allow_credentials": True})
    async with running_app(changed) as app, client_for(app) as client:
        yield client


def preflight(origin: str, method: str = "POST", headers: str = "authorization") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


async def test_an_allowed_origin_may_call_and_caches_preflights(client: httpx2.AsyncClient) -> None:
    asked = await client.options(URL, headers=preflight(OURS))
    answer = await client.get(URL, headers={"Origin": OURS})

    assert asked.status_code == 200
    assert asked.headers["Access-Control-Max-Age"] == "600"
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "asked",
    [
        preflight(THEIRS),
        preflight("null"),
        preflight(OURS, "TRACE"),
        preflight(OURS, headers="x-a"),
    ],
)
async def test_other_origins_methods_and_headers_are_refused(
    client: httpx2.AsyncClient, asked: dict[str, str]
) -> None:
    assert (await client.options(URL, headers=asked)).status_code == 400


async def test_a_component_can_allow_another_request_header(settings: Settings) -> None:
    changed = settings.model_copy(update={"cors_origins": [OURS]})
    service = FastAPI()
    cors.allow(service, "X-One")
    cors.allow(service, "X-Two")
    cors.setup(service, changed)
    async with client_for(service) as client:
        asked = await client.options(URL, headers=preflight(OURS, headers="x-one,x-two,if-match"))

    assert asked.status_code == 200


async def test_other_origins_cannot_read_a_response(client: httpx2.AsyncClient) -> None:
    answer = await client.get(URL, headers={"Origin": THEIRS})

    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_an_allowed_origin_can_read_errors_of_the_middleware(settings: Settings) -> None:
    changes = {"cors_origins": [OURS], "max_in_flight": 0}
    async with running_app(settings.model_copy(update=changes)) as app, client_for(app) as client:
        answer = await client.get("/api/v1/no-such-thing", headers={"Origin": OURS})

    assert answer.status_code == 503
    assert answer.headers["Access-Control-Allow-Origin"] == OURS


async def test_no_origin_is_allowed_by_default(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        asked = await client.options(URL, headers=preflight(OURS))
        answer = await client.get(URL, headers={"Origin": OURS})

    assert asked.status_code == 405
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"]
)
async def test_an_invalid_origin_fails_at_startup(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORS_ORIGINS", f"{OURS}, {origin}")

    with pytest.raises(SettingsError, match=r"CORS_ORIGINS: .* is no origin"):
        get_settings()
