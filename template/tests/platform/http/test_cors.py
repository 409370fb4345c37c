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


async def test_our_pages_may_call_and_ask_seldom(client: httpx2.AsyncClient) -> None:
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
async def test_what_is_not_allowed_is_refused(
    client: httpx2.AsyncClient, asked: dict[str, str]
) -> None:
    assert (await client.options(URL, headers=asked)).status_code == 400


async def test_a_part_can_allow_a_header_of_its_own(settings: Settings) -> None:
    changed = settings.model_copy(update={"cors_origins": [OURS]})
    service = FastAPI()
    cors.allow(service, "X-One")
    cors.allow(service, "X-Two")
    cors.setup(service, changed)
    async with client_for(service) as client:
        asked = await client.options(URL, headers=preflight(OURS, headers="x-one,x-two,if-match"))

    assert asked.status_code == 200


async def test_other_pages_can_not_read_an_answer(client: httpx2.AsyncClient) -> None:
    answer = await client.get(URL, headers={"Origin": THEIRS})

    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_our_pages_can_read_errors_that_no_route_made(settings: Settings) -> None:
    changes = {"cors_origins": [OURS], "max_in_flight": 0}
    async with running_app(settings.model_copy(update=changes)) as app, client_for(app) as client:
        answer = await client.get("/api/v1/no-such-thing", headers={"Origin": OURS})

    assert answer.status_code == 503
    assert answer.headers["Access-Control-Allow-Origin"] == OURS


async def test_by_default_no_page_may_call(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        asked = await client.options(URL, headers=preflight(OURS))
        answer = await client.get(URL, headers={"Origin": OURS})

    assert asked.status_code == 405
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"]
)
async def test_what_no_browser_sends_as_an_origin_stops_the_boot(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORS_ORIGINS", f"{OURS}, {origin}")

    with pytest.raises(SettingsError, match=r"CORS_ORIGINS: .* is no origin"):
        get_settings()
