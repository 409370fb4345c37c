"""``AUTH_CACHE_MAX_AGE``: what it saves, and what it never does."""

import asyncio
import time

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.auth import auth_cache
from app.platform.auth.auth_cache import AuthCache
from app.platform.auth.identity import User
from app.settings import Settings
from tests.actors import REVOCATIONS, sign_in
from tests.conftest import client_for
from tests.platform.auth.test_security import ME, filled, guarded, is_refusal

CHALLENGE = 'Bearer error="invalid_token"'
EMAIL = "carol@example.com"
USER = User("1", frozenset(), "2")
revoke = next(iter(REVOCATIONS.values()))


def use_cache(monkeypatch: pytest.MonkeyPatch, app: FastAPI, max_age: float) -> None:
    monkeypatch.setitem(vars(app.state)["_state"], "auth_cache", AuthCache(max_age))


async def sign_in_read_and_revoke(app: FastAPI, client: httpx2.AsyncClient) -> dict[str, str]:
    """The header of a credential that has been used for a GET, and revoked after that."""
    headers = await sign_in(client, EMAIL)
    assert (await client.get(ME, headers=headers)).status_code == 200
    await revoke(app, client, EMAIL, headers)
    return headers


async def test_it_is_off_unless_it_is_set(app: FastAPI, settings: Settings) -> None:
    assert settings.auth_cache_max_age == 0
    assert app.state.auth_cache is None


def test_the_setting_turns_it_on(settings: Settings) -> None:
    on = FastAPI()
    auth_cache.setup(on, settings.model_copy(update={"auth_cache_max_age": 1}))
    assert isinstance(on.state.auth_cache, AuthCache)


async def test_a_revoked_credential_reads_until_its_entry_ends(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_for(app) as client:
        use_cache(monkeypatch, app, max_age=600)
        headers = await sign_in_read_and_revoke(app, client)
        assert (await client.get(ME, headers=headers)).status_code == 200

        use_cache(monkeypatch, app, max_age=0.2)
        headers = await sign_in_read_and_revoke(app, client)
        async with asyncio.timeout(30):
            while (answer := await client.get(ME, headers=headers)).status_code == 200:
                pass
    assert is_refusal(answer, CHALLENGE)


async def test_a_revoked_credential_changes_nothing_from_then_on(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, app, max_age=600)
    changes = [(method, path) for method, path in guarded(app.openapi()) if method != "get"]
    async with client_for(app) as client:
        headers = await sign_in_read_and_revoke(app, client)
        answers = {
            (method, path): await client.request(method, filled(path), headers=headers)
            for method, path in changes
        }
        assert (await client.get(ME, headers=headers)).status_code == 200

    assert answers
    assert [route for route, answer in answers.items() if not is_refusal(answer, CHALLENGE)] == []


async def test_an_invalid_credential_is_not_stored(
    client: httpx2.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, app, max_age=600)
    for _ in range(2):
        answer = await client.get(ME, headers={"Authorization": "Bearer garbage"})
        assert is_refusal(answer, CHALLENGE)
    assert vars(app.state.auth_cache)["_callers"] == {}


def test_an_entry_is_as_old_as_its_lookup() -> None:
    cache = AuthCache(max_age=600)
    cache.add("new", USER, time.monotonic() - 60)
    cache.add("old", USER, time.monotonic() - 601)
    assert cache.get("new") == USER
    assert cache.get("old") is None
    assert cache.get("unknown") is None


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_cache, "MAX_CALLERS", 3)
    cache = AuthCache(max_age=600)
    for number in (0, 1, 2, 1, 3, 4):  # 1 is looked up again, so 0 and 2 are the oldest
        cache.add(f"token {number}", USER, time.monotonic())
    known = [number for number in range(5) if cache.get(f"token {number}")]
    assert known == [1, 3, 4]


def test_memory_holds_no_usable_token() -> None:
    cache = AuthCache(max_age=600)
    cache.add("s3cret", USER, time.monotonic())
    assert "s3cret" not in repr(vars(cache))
