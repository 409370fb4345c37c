"""The Host header allow-list."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.platform.http.hosts import AllowedHosts
from app.settings import Settings
from tests.conftest import client_for, running_platform

URL = "/api/v1/unknown"  # 404 if the host is allowed


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    hosts = ["api.example.com", "*.example.org"]
    changed = settings.model_copy(update={"allowed_hosts": hosts})
    async with running_platform(changed) as app, client_for(app) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "API.example.com",
        "api.example.com:8000",
        "a.example.org",
        "b.a.example.org",
    ],
)
async def test_allowed_hosts_are_served(client: httpx2.AsyncClient, host: str) -> None:
    response = await client.get(URL, headers={"Host": host})

    assert response.status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com",
        "evil.test",
        "api.example.com.evil.test",
        "evilexample.org",
        "example.org",
        "[::1]:8000",
    ],
)
async def test_other_hosts_are_refused(client: httpx2.AsyncClient, host: str) -> None:
    response = await client.get(URL, headers={"Host": host})

    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "unknown_host"


@pytest.mark.parametrize(
    "host", ["[::1", "::1", "[example.com]", "a b", "a/b", "api.example.com@evil.test", "a:b", "[]"]
)
async def test_what_is_no_host_is_refused_where_every_host_is_allowed(
    settings: Settings, host: str
) -> None:
    assert "*" in settings.allowed_hosts
    async with running_platform(settings) as app, client_for(app) as client:
        response = await client.get(URL, headers={"Host": host})
        served = await client.get(URL, headers={"Host": "[::1]:8000"})

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert served.status_code == 404


async def test_two_host_headers_are_refused(client: httpx2.AsyncClient) -> None:
    two = [("Host", "api.example.com"), ("Host", "evil.test")]

    assert (await client.get(URL, headers=two)).status_code == 400


async def test_a_websocket_with_two_host_headers_is_refused() -> None:
    sent: list[Message] = []

    async def accept(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [(b"host", b"api.example.com"), (b"host", b"evil.test")],
        "extensions": {"websocket.http.response": {}},
    }
    await AllowedHosts(accept, ["api.example.com"])(scope, receive, send)
    assert sent[0]["type"] == "websocket.http.response.start"
    assert sent[0]["status"] == 400


async def test_probes_by_ip_address_are_exempt(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/live", headers={"Host": "10.0.0.7:8000"})

    assert response.status_code == 200


async def test_every_host_is_allowed_by_default(settings: Settings) -> None:
    async with running_platform(settings) as app, client_for(app) as client:
        response = await client.get(URL, headers={"Host": "whatever.test"})

    assert response.status_code == 404
