"""Run inside a generated service: it trusts a certified provider, which this test runs."""

import asyncio
import base64
import hashlib
import os
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.auth import keys
from app.settings import Settings
from tests.platform.auth.conftest import eventually
from tests.conftest import client_for, running_app

API = "https://api.example.com"
ME = "/api/v1/auth/me"
REDIRECT = "http://localhost:8000/docs/oauth2-redirect"
MACHINE = ("machine", "for-this-test-alone")
PATIENCE = 60  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Provider:
    """The provider's process, which can be stopped and started."""

    def __init__(self, port: int, hook: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self._command = [os.environ["NODE"], os.environ["PROVIDER"], str(port)]
        self._environment = {
            **os.environ,
            "BACKCHANNEL_LOGOUT_URI": f"http://127.0.0.1:{hook}/logout",
            "NO_PROXY": "127.0.0.1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, env=self._environment, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + PATIENCE
        while True:
            try:
                httpx2.get(f"{self.issuer}/jwks").raise_for_status()
            except httpx2.HTTPError:
                assert time.monotonic() < end, "the provider does not answer"
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    async def token(self, scope: str = "", resource: str = API) -> str:
        """Get a token as a machine does, with its own secret."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        async with httpx2.AsyncClient() as client:
            answer = await client.post(f"{self.issuer}/token", data=form, auth=MACHINE)
        token: str = answer.raise_for_status().json()["access_token"]
        return token

    async def fetches(self) -> int:
        async with httpx2.AsyncClient() as client:
            counts = (await client.get(f"{self.issuer}/-/counts")).json()
        return int(counts["/jwks"])

    async def change(self, how: str) -> None:
        async with httpx2.AsyncClient() as client:
            (await client.post(f"{self.issuer}/-/{how}")).raise_for_status()


@pytest.fixture
def hook() -> int:
    """The port on which the provider tells of logouts."""
    return free_port()


@pytest.fixture
def provider(hook: int) -> Iterator[Provider]:
    provider = Provider(free_port(), hook)
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
async def service(module_settings: Settings, provider: Provider) -> AsyncIterator[FastAPI]:
    changes = {"oidc_issuer": provider.issuer, "oidc_audience": API}
    async with running_app(module_settings.model_copy(update=changes)) as app:
        await app.state.redis.flushdb()
        yield app


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status(caller: httpx2.AsyncClient, token: str) -> int:
    return (await caller.get(ME, headers=bearer(token))).status_code


def advance(app: FastAPI, seconds: float) -> None:
    """Let time pass for the keys."""
    app.state.keys.fetched_at -= seconds
    app.state.keys.attempted_at -= seconds


async def test_a_machine_signs_in(caller: httpx2.AsyncClient, provider: Provider) -> None:
    answer = await caller.get(ME, headers=bearer(await provider.token("admin things:read")))

    assert answer.status_code == 200
    assert answer.json()["scopes"] == ["admin", "things:read"]
    assert await status(caller, await provider.token(resource="https://other.example.com")) == 401


async def test_keys_change_in_the_middle_of_traffic_and_no_request_is_lost(
    service: FastAPI, caller: httpx2.AsyncClient, provider: Provider
) -> None:
    first = await provider.token()
    assert await status(caller, first) == 200
    advance(service, keys.MIN_FETCH_INTERVAL)
    before = await provider.fetches()
    codes: list[int] = []
    stop = asyncio.Event()

    async def keep_calling(token: str) -> None:
        while not stop.is_set():
            codes.append(await status(caller, token))

    async with asyncio.TaskGroup() as traffic:
        for _ in range(5):
            traffic.create_task(keep_calling(first))
        await provider.change("rotate")
        second = await provider.token()
        for _ in range(5):
            traffic.create_task(keep_calling(second))
        called = len(codes)
        await eventually(lambda: len(codes) >= called + 200)
        stop.set()
    after = await provider.fetches()
    await provider.change("withdraw")
    advance(service, keys.REFRESH_AFTER)
    late = [await status(caller, token) for token in (first, second)]

    assert set(codes) == {200}
    assert after - before == 1
    assert late == [401, 200]


async def test_without_the_provider_known_keys_go_on_and_it_is_found_again(
    service: FastAPI, caller: httpx2.AsyncClient, provider: Provider
) -> None:
    known = await provider.token()
    assert await status(caller, known) == 200
    provider.stop()
    advance(service, keys.REFRESH_AFTER)
    away = [await status(caller, known) for _ in range(20)]
    health = (await caller.get("/health/ready")).json()
    provider.start()  # with other keys
    advance(service, keys.MIN_FETCH_INTERVAL)
    fresh = await provider.token()

    assert away == [200] * 20
    assert (health["status"], health["checks"]["identity_provider"]["status"]) == (
        "degraded",
        "down",
    )
    assert await status(caller, fresh) == 200
    assert await status(caller, known) == 401


class Browser:
    """Enough of a browser to sign in on the provider's pages."""

    def __init__(self, issuer: str) -> None:
        self.client = httpx2.AsyncClient(base_url=issuer, headers={"Connection": "close"})

    async def follow(self, answer: httpx2.Response) -> httpx2.Response:
        """Follow redirects as long as they stay at the provider."""
        while answer.is_redirect:
            target = urljoin(str(answer.url), answer.headers["Location"])
            if not target.startswith(str(self.client.base_url)):
                return answer
            answer = await self.client.get(target)
        return answer

    async def submit(self, page: httpx2.Response, **typed: str) -> httpx2.Response:
        """Send the form of a page."""
        action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
        assert action, page.text
        hidden = re.findall(r'name="([^"]+)" value="([^"]*)"', page.text)
        target = urljoin(str(page.url), action[1])
        return await self.follow(await self.client.post(target, data={**dict(hidden), **typed}))


async def sign_in(browser: Browser) -> dict[str, Any]:
    """Sign in as the docs page lets people do it: authorization code with PKCE."""
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    asked = {
        "client_id": "docs",
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "scope": "openid admin",
        "resource": API,
        "state": "xyz",
        "code_challenge": challenge.rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    page = await browser.follow(await browser.client.get("/auth", params=asked))
    page = await browser.submit(page, login="ada", password="anything")
    back = await browser.submit(page)
    query = parse_qs(urlsplit(back.headers["Location"]).query)
    assert query["state"] == ["xyz"]
    form = {
        "grant_type": "authorization_code",
        "client_id": "docs",
        "code": query["code"][0],
        "redirect_uri": REDIRECT,
        "code_verifier": verifier,
    }
    answer = await browser.client.post("/token", data=form)
    tokens: dict[str, Any] = answer.raise_for_status().json()
    return tokens


async def test_a_person_signs_in_and_the_id_token_opens_nothing(
    caller: httpx2.AsyncClient, provider: Provider
) -> None:
    tokens = await sign_in(Browser(provider.issuer))
    answer = await caller.get(ME, headers=bearer(tokens["access_token"]))

    assert (answer.status_code, answer.json()["scopes"]) == (200, ["admin"])
    assert await status(caller, tokens["id_token"]) == 401


@asynccontextmanager
async def told(port: int, caller: httpx2.AsyncClient) -> AsyncIterator[list[int]]:
    """Hand what the provider posts to ``port`` on to the service; yield what it answered."""
    answers: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        answer = await caller.post(
            "/api/v1/auth/backchannel-logout",
            content=body,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        answers.append(answer.status_code)
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % answer.status_code)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield answers


async def test_a_logout_at_the_provider_is_felt_here(
    caller: httpx2.AsyncClient, provider: Provider, hook: int
) -> None:
    browser = Browser(provider.issuer)
    tokens = await sign_in(browser)
    before = await status(caller, tokens["access_token"])
    machine = await provider.token()
    async with told(hook, caller) as answers:
        asked = {"id_token_hint": tokens["id_token"]}
        page = await browser.follow(await browser.client.get("/session/end", params=asked))
        await browser.submit(page, logout="yes")
        await eventually(lambda: answers)

    assert before == 200
    assert answers == [200]
    assert await status(caller, tokens["access_token"]) == 401
    assert await status(caller, machine) == 200
