"""The provider's keys: rotation, outages, delays and hostile documents, over real sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from app.platform.auth import discovery, keys
from app.platform.auth.discovery import ProviderData, ProviderError, read_keys
from app.platform.auth.keys import Keys
from app.platform.base.tasks import cancel
from app.settings import Settings
from tests.conftest import client_for, running_app
from tests.platform.auth.conftest import CONFIGURATION, JWKS, Peer, eventually

ME = "/api/v1/auth/me"


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def advance(app: FastAPI, seconds: float) -> None:
    """Make the cached keys older."""
    known: Keys = app.state.keys
    known.fetched_at -= seconds
    known.attempted_at -= seconds


async def status(client: httpx2.AsyncClient, headers: dict[str, str]) -> int:
    return (await client.get(ME, headers=headers)).status_code


async def test_concurrent_first_requests_share_one_fetch(
    caller: httpx2.AsyncClient, peer: Peer
) -> None:
    peer.delay = 0.1
    async with peer.up():
        codes = await asyncio.gather(*(status(caller, peer.headers()) for _ in range(30)))

    assert codes == [200] * 30
    assert peer.requests == {CONFIGURATION: 1, JWKS: 1}


async def test_a_new_key_is_fetched_under_load_without_errors(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        assert await status(caller, peer.headers()) == 200
        advance(service, keys.MIN_FETCH_INTERVAL)
        peer.provider.rotate()
        codes = await asyncio.gather(*(status(caller, peer.headers()) for _ in range(30)))

    assert codes == [200] * 30
    assert peer.requests[JWKS] == 2


async def test_a_withdrawn_key_is_refused_after_the_next_refresh(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        old = peer.headers()
        assert await status(caller, old) == 200
        peer.provider.rotate()
        within = await status(caller, old)
        advance(service, keys.REFRESH_AFTER)
        after = await status(caller, old)

    assert (within, after) == (200, 401)


async def test_invented_key_ids_do_not_cause_requests_to_the_provider(
    caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        good = peer.headers()
        assert await status(caller, good) == 200
        peer.provider.keys[0].id = "invented"
        invented = peer.headers()
        codes = [await status(caller, invented) for _ in range(50)]
        peer.provider.keys[0].id = jwt.get_unverified_header(good["Authorization"][7:])["kid"]

        assert codes == [401] * 50
        assert peer.requests[JWKS] == 1
        assert await status(caller, good) == 200


async def test_during_an_outage_of_the_provider_cached_keys_are_used(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
    advance(service, keys.REFRESH_AFTER)
    peer.provider.rotate()
    codes = [await status(caller, known), await status(caller, peer.headers())]
    health = (await caller.get("/health/ready")).json()
    advance(service, keys.MIN_FETCH_INTERVAL)
    async with peer.up():
        recovered = await status(caller, peer.headers())
        after = (await caller.get("/health/ready")).json()

    assert codes == [200, 401]
    assert health["status"] == "degraded"
    assert health["checks"]["identity_provider"]["status"] == "down"
    assert health["checks"]["identity_keys"]["status"] == "up"
    assert recovered == 200
    assert after["checks"]["identity_provider"]["status"] in ("up", "down")  # remembered for 1 s


async def test_cached_keys_expire_during_a_long_outage(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer, trusting_settings: Settings
) -> None:
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
    advance(service, trusting_settings.oidc_keys_max_age)

    assert await status(caller, known) == 503


async def test_without_any_keys_requests_get_503_with_retry_after(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    answer = await caller.get(ME, headers=peer.headers())
    ready = await caller.get("/health/ready")

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= keys.MIN_FETCH_INTERVAL
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert peer.provider.issuer not in answer.text + ready.text
    async with peer.up():
        assert await status(caller, peer.headers()) == 503  # no new attempt yet
        advance(service, keys.MIN_FETCH_INTERVAL)
        assert await status(caller, peer.headers()) == 200


async def test_a_hanging_provider_delays_one_request_only(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "TIMEOUT", 2.0)
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
        advance(service, keys.REFRESH_AFTER)
        peer.delay = 600
        first = asyncio.create_task(status(caller, known))
        await eventually(lambda: peer.requests[CONFIGURATION] == 2)
        others = [await status(caller, known) for _ in range(10)]
        waiting = not first.done()

        assert others == [200] * 10
        assert waiting
        assert await first == 200


async def test_cancelling_the_fetching_request_does_not_cancel_the_fetch(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    peer.delay = 0.3
    async with peer.up():
        first = asyncio.create_task(status(caller, peer.headers()))
        await eventually(lambda: peer.requests)
        second = asyncio.create_task(status(caller, peer.headers()))
        await asyncio.sleep(0)
        first.cancel()

        assert await second == 200
        assert peer.requests[CONFIGURATION] == 1


async def test_a_requests_deadline_does_not_apply_to_the_fetch(
    trusting_settings: Settings, peer: Peer
) -> None:
    peer.delay = 1.0
    short = trusting_settings.model_copy(update={"request_timeout": 0.5})
    async with peer.up(), running_app(short) as app, client_for(app) as client:
        codes = [await status(client, peer.headers())]
        end = time.monotonic() + 60
        while codes[-1] != 200 and time.monotonic() < end:
            codes.append(await status(client, peer.headers()))

    assert codes[0] == 504
    assert codes[-1] == 200
    assert peer.requests == {CONFIGURATION: 1, JWKS: 1}


async def test_a_fetch_ends_with_the_app(
    trusting_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> ProviderData:
        started.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    monkeypatch.setattr(discovery, "fetch", hang)
    async with running_app(trusting_settings) as app:
        refresh = asyncio.create_task(app.state.keys.refresh())
        await started.wait()
    assert ended.is_set()
    await cancel(refresh)


async def fetch_error(app: FastAPI, peer: Peer) -> str:
    """The reason why the fetch fails."""
    async with peer.up():
        with pytest.raises(ProviderError) as error:
            await discovery.fetch(app.state.http, app.state.settings)
    return str(error.value)


async def test_metadata_of_another_issuer_are_refused(service: FastAPI, peer: Peer) -> None:
    for other in (f"{peer.provider.issuer}/", "https://login.example.com"):
        configuration = {**peer.provider.configuration(), "issuer": other}
        peer.respond(CONFIGURATION, json.dumps(configuration).encode())

        assert f"its issuer is {other}" in await fetch_error(service, peer)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/jwks", "jwks", ""])
async def test_the_keys_url_has_the_scheme_of_the_issuer(
    service: FastAPI, peer: Peer, url: str
) -> None:
    configuration = {**peer.provider.configuration(), "jwks_uri": url}
    peer.respond(CONFIGURATION, json.dumps(configuration).encode())

    assert "its keys are at" in await fetch_error(service, peer)
    assert peer.requests[JWKS] == 0


@pytest.mark.parametrize("path", [CONFIGURATION, JWKS])
async def test_invalid_responses_of_the_provider_are_errors(
    service: FastAPI, peer: Peer, path: str
) -> None:
    peer.respond(path, b"x" * (discovery.MAX_DOCUMENT_SIZE + 1))
    assert "is larger than" in await fetch_error(service, peer)
    peer.respond(path, b"<html>")
    assert "is not JSON" in await fetch_error(service, peer)
    peer.respond(path, b"[" * 100_000)
    assert "is not JSON" in await fetch_error(service, peer)
    peer.respond(path, b"{}", 500)
    assert "answered 500" in await fetch_error(service, peer)
    peer.respond(path, b"", 302, location=f"{peer.provider.issuer}/token")
    assert "answered 302" in await fetch_error(service, peer)
    peer.respond(path, b"x", content_encoding="gzip")
    assert "answered 200" in await fetch_error(service, peer)
    for body in (b"{}", b"[]", b"7", b'{"keys": 7}', b'{"keys": [7]}', b'{"issuer": 7}'):
        peer.respond(path, body)
        assert await fetch_error(service, peer)
    assert peer.requests["/token"] == 0


def rsa_key(size: int, **more: Any) -> dict[str, Any]:
    private = rsa.generate_private_key(65537, size)
    key: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(
        private.public_key(), as_dict=True
    )
    return {name: value for name, value in key.items() if name != "key_ops"} | {"kid": "a"} | more


def test_a_key_is_used_with_the_algorithms_of_the_provider_only() -> None:
    key = rsa_key(2048)
    allowed = ["RS256", "PS256", "ES256", "EdDSA"]

    assert set(read_keys({"keys": [key]}, allowed)) == {("a", "RS256"), ("a", "PS256")}
    assert set(read_keys({"keys": [{**key, "alg": "PS256"}]}, allowed)) == {("a", "PS256")}
    assert set(read_keys({"keys": [key]}, ["RS256"])) == {("a", "RS256")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"use": "enc"},
        {"alg": "RSA-OAEP"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"key_ops": ["encrypt"]},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"n": "!"},
        {"n": 7},
        {"d": "AQAB"},
    ],
    ids=str,
)
def test_other_than_public_signing_keys_are_ignored(wrong: dict[str, Any]) -> None:
    key = rsa_key(2048)
    good = {**key, "kid": "good"}
    names = read_keys({"keys": [{**key, **wrong}, good]}, ["RS256", "ES256"])

    assert set(names) == {("good", "RS256")}


def test_a_short_rsa_key_is_ignored() -> None:
    with pytest.raises(ProviderError, match="it has no key for any of"):
        read_keys({"keys": [rsa_key(1024)]}, ["RS256"])


async def test_close_waits_for_a_fetch_that_loses_its_first_cancellation() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def fetch() -> ProviderData:
        started.set()
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()
        raise AssertionError

    known = Keys(fetch, max_age=60)
    refresh = asyncio.create_task(known.refresh())
    await started.wait()
    await asyncio.wait_for(known.close(), 10)
    assert ended.is_set()
    await cancel(refresh)
