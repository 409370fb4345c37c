"""The provider's keys: rotated, withdrawn, away, slow, hostile. Its sockets are real."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from app.auth import discovery, keys
from app.auth.discovery import ProviderError, read_keys
from app.auth.keys import Keys
from app.settings import Settings
from tests.auth.conftest import CONFIGURATION, JWKS, Peer, eventually
from tests.conftest import client_for, running_app

ME = "/api/v1/auth/me"


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        yield client


def pass_by(app: FastAPI, seconds: float) -> None:
    """Let time pass for the keys."""
    known: Keys = app.state.keys
    known.fetched_at -= seconds
    known.looked_at -= seconds


async def status(client: httpx2.AsyncClient, headers: dict[str, str]) -> int:
    return (await client.get(ME, headers=headers)).status_code


async def test_of_many_first_requests_one_asks_the_provider(
    caller: httpx2.AsyncClient, peer: Peer
) -> None:
    peer.delay = 0.1
    async with peer.up():
        codes = await asyncio.gather(*(status(caller, peer.headers()) for _ in range(30)))

    assert codes == [200] * 30
    assert peer.asked == {CONFIGURATION: 1, JWKS: 1}


async def test_a_new_key_is_found_in_the_middle_of_traffic_and_no_request_is_lost(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        assert await status(caller, peer.headers()) == 200
        pass_by(service, keys.COOL_DOWN)
        peer.provider.rotate()
        codes = await asyncio.gather(*(status(caller, peer.headers()) for _ in range(30)))

    assert codes == [200] * 30
    assert peer.asked[JWKS] == 2


async def test_a_withdrawn_key_is_refused_once_the_keys_are_no_longer_fresh(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        old = peer.headers()
        assert await status(caller, old) == 200
        peer.provider.rotate()
        within = await status(caller, old)
        pass_by(service, keys.FRESH)
        after = await status(caller, old)

    assert (within, after) == (200, 401)


async def test_invented_keys_cannot_be_turned_against_the_provider(
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
        assert peer.asked[JWKS] == 1
        assert await status(caller, good) == 200


async def test_while_the_provider_is_away_known_keys_are_good_and_others_are_not(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
    pass_by(service, keys.FRESH)
    peer.provider.rotate()
    codes = [await status(caller, known), await status(caller, peer.headers())]
    health = (await caller.get("/health/ready")).json()
    pass_by(service, keys.COOL_DOWN)
    async with peer.up():
        recovered = await status(caller, peer.headers())
        after = (await caller.get("/health/ready")).json()

    assert codes == [200, 401]
    assert health["status"] == "degraded"
    assert health["checks"]["identity_provider"]["status"] == "down"
    assert health["checks"]["identity_keys"]["status"] == "up"
    assert recovered == 200
    assert after["checks"]["identity_provider"]["status"] in ("up", "down")  # remembered for 1 s


async def test_keys_are_not_used_for_ever_without_the_provider(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer, trusting: Settings
) -> None:
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
    pass_by(service, trusting.oidc_keys_max_age)

    assert await status(caller, known) == 503


async def test_before_anything_is_known_callers_are_asked_to_come_back(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    answer = await caller.get(ME, headers=peer.headers())
    ready = await caller.get("/health/ready")

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= keys.COOL_DOWN
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert peer.provider.issuer not in answer.text + ready.text
    async with peer.up():
        assert await status(caller, peer.headers()) == 503  # the provider is not asked again yet
        pass_by(service, keys.COOL_DOWN)
        assert await status(caller, peer.headers()) == 200


async def test_a_provider_that_hangs_makes_one_caller_wait_and_no_other(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "TIMEOUT", 2.0)
    async with peer.up():
        known = peer.headers()
        assert await status(caller, known) == 200
        pass_by(service, keys.FRESH)
        peer.delay = 600
        first = asyncio.create_task(status(caller, known))
        await eventually(lambda: peer.asked[CONFIGURATION] == 2)
        others = [await status(caller, known) for _ in range(10)]
        waiting = not first.done()

        assert others == [200] * 10
        assert waiting
        assert await first == 200


async def test_the_request_that_asks_may_be_given_up_without_harm_to_the_others(
    service: FastAPI, caller: httpx2.AsyncClient, peer: Peer
) -> None:
    peer.delay = 0.3
    async with peer.up():
        first = asyncio.create_task(status(caller, peer.headers()))
        await eventually(lambda: peer.asked)
        second = asyncio.create_task(status(caller, peer.headers()))
        await asyncio.sleep(0)
        first.cancel()

        assert await second == 200
        assert peer.asked[CONFIGURATION] == 1


async def test_a_short_deadline_of_one_request_is_none_of_the_fetch(
    trusting: Settings, peer: Peer
) -> None:
    peer.delay = 1.0
    short = trusting.model_copy(update={"request_timeout": 0.5})
    async with peer.up(), running_app(short) as app, client_for(app) as client:
        codes = [await status(client, peer.headers())]
        end = time.monotonic() + 60
        while codes[-1] != 200 and time.monotonic() < end:
            codes.append(await status(client, peer.headers()))

    assert codes[0] == 504
    assert codes[-1] == 200
    assert peer.asked == {CONFIGURATION: 1, JWKS: 1}


async def fails(app: FastAPI, peer: Peer) -> str:
    """Return why the provider can't be used."""
    async with peer.up():
        with pytest.raises(ProviderError) as error:
            await discovery.fetch(app.state.http, app.state.settings)
    return str(error.value)


async def test_a_provider_with_another_name_is_not_believed(service: FastAPI, peer: Peer) -> None:
    for other in (f"{peer.provider.issuer}/", "https://login.example.com"):
        configuration = {**peer.provider.configuration(), "issuer": other}
        peer.answer(CONFIGURATION, json.dumps(configuration).encode())

        assert f"it calls itself {other}" in await fails(service, peer)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/jwks", "jwks", ""])
async def test_keys_come_over_the_same_kind_of_connection(
    service: FastAPI, peer: Peer, address: str
) -> None:
    configuration = {**peer.provider.configuration(), "jwks_uri": address}
    peer.answer(CONFIGURATION, json.dumps(configuration).encode())

    assert "its keys are at" in await fails(service, peer)
    assert peer.asked[JWKS] == 0


@pytest.mark.parametrize("path", [CONFIGURATION, JWKS])
async def test_answers_that_are_none_are_errors(service: FastAPI, peer: Peer, path: str) -> None:
    peer.answer(path, b"x" * (discovery.LARGEST + 1))
    assert "is larger than" in await fails(service, peer)
    peer.answer(path, b"<html>")
    assert "is no JSON" in await fails(service, peer)
    peer.answer(path, b"[" * 100_000)
    assert "is no JSON" in await fails(service, peer)
    peer.answer(path, b"{}", 500)
    assert "answered 500" in await fails(service, peer)
    peer.answer(path, b"", 302, location=f"{peer.provider.issuer}/token")
    assert "answered 302" in await fails(service, peer)
    peer.answer(path, b"x", content_encoding="gzip")
    assert "answered 200" in await fails(service, peer)
    for body in (b"{}", b"[]", b"7", b'{"keys": 7}', b'{"keys": [7]}', b'{"issuer": 7}'):
        peer.answer(path, body)
        assert await fails(service, peer)
    assert peer.asked["/token"] == 0


def rsa_key(size: int, **more: Any) -> dict[str, Any]:
    private = rsa.generate_private_key(65537, size)
    key: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(
        private.public_key(), as_dict=True
    )
    return {name: value for name, value in key.items() if name != "key_ops"} | {"kid": "a"} | more


def test_a_key_is_used_as_its_owner_says_and_not_as_a_token_says() -> None:
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
def test_what_is_no_public_key_for_signatures_is_left_out(wrong: dict[str, Any]) -> None:
    key = rsa_key(2048)
    good = {**key, "kid": "good"}
    names = read_keys({"keys": [{**key, **wrong}, good]}, ["RS256", "ES256"])

    assert set(names) == {("good", "RS256")}


def test_a_key_that_is_too_short_is_left_out() -> None:
    with pytest.raises(ProviderError, match="none of its keys"):
        read_keys({"keys": [rsa_key(1024)]}, ["RS256"])
