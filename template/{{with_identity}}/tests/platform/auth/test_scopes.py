"""Scopes: the same dependencies and responses with every auth style."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app.auth import CurrentUser, User, require, user_id
from app.platform.auth import scheme
from app.platform.http.rate_limit import limit
from app.settings import Settings
from tests.actors import sign_in_with
from tests.conftest import client_for, running_app

URL = "/api/v1/guarded"
ME = "/api/v1/auth/me"
EMAIL = "ada@example.com"
BOTH = ("things:read", "things:write")


@pytest.fixture
async def app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async def guarded_in_a_test(
        caller: CurrentUser,
        reader: Annotated[User, require("things:read")],
        writer: Annotated[User, require("things:write", "things:read")],
    ) -> dict[str, Any]:
        assert caller is reader is writer
        assert isinstance(caller.credential, str)
        return {"id": caller.id, "scopes": sorted(caller.scopes)}

    async with running_app(module_settings) as app:
        await app.state.redis.flushdb()
        app.add_api_route(URL, guarded_in_a_test)
        yield app


@asynccontextmanager
async def caller(
    app: FastAPI, *scopes: str, email: str = EMAIL
) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        client.headers.update(await sign_in_with(app, client, email, *scopes))
        yield client


async def test_a_caller_with_the_scopes_is_allowed(app: FastAPI) -> None:
    async with caller(app, *BOTH) as ada:
        me = (await ada.get(ME)).json()
        answer = await ada.get(URL)

    assert me["scopes"] == list(BOTH)
    assert (answer.status_code, answer.json()) == (200, {"id": me["id"], "scopes": list(BOTH)})


@pytest.mark.parametrize("scopes", [(), ("things:read",), ("things:write",), ("things",)])
async def test_a_caller_without_a_scope_is_told_which_one(
    app: FastAPI, scopes: tuple[str, ...]
) -> None:
    async with caller(app, *scopes) as ada:
        answer = await ada.get(URL)

    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "forbidden"
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


async def test_an_anonymous_caller_is_not_told_the_scopes(app: FastAPI) -> None:
    async with client_for(app) as nobody:
        answer = await nobody.get(URL)

    assert answer.status_code == 401
    assert "things" not in answer.text + answer.headers["WWW-Authenticate"]


async def test_a_callers_id_is_stable(app: FastAPI) -> None:
    async with caller(app) as first, caller(app) as second:
        ids = {(await client.get(ME)).json()["id"] for client in (first, second)}
    async with caller(app, email="bob@example.com") as bob:
        other = (await bob.get(ME)).json()["id"]

    assert len(ids) == 1
    assert other not in ids


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(_: Any, __: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    engine = app.state.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


async def test_the_caller_is_authenticated_once_per_request(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticated: list[str] = []

    async def counted(connection: Any, credential: Any) -> User:
        user = await scheme.authenticate(connection, credential)
        authenticated.append(user.id)
        return user

    monkeypatch.setattr("app.platform.auth.current.authenticate", counted)
    async with caller(app, *BOTH) as ada:
        await ada.get(URL)  # records the use, which happens once a minute
        authenticated.clear()
        with statements(app) as seen:
            assert (await ada.get(URL)).is_success

    assert len(authenticated) == 1
    assert len(seen) <= 1


async def test_a_limit_can_count_by_caller(app: FastAPI) -> None:
    async def export() -> None: ...

    app.add_api_route("/api/v1/export", export, dependencies=[limit("e", "1/hour", by=user_id)])
    async with caller(app) as ada, caller(app, email="bob@example.com") as bob:
        answers = [await client.get("/api/v1/export") for client in (ada, ada, bob)]

    assert [answer.status_code for answer in answers] == [200, 429, 200]


async def test_the_api_document_has_security_schemes_and_scopes(app: FastAPI) -> None:
    document = app.openapi()

    schemes = document["components"]["securitySchemes"]
    requirements = document["paths"][URL]["get"]["security"]
    assert {name for each in requirements for name in each} == set(schemes)
    assert all(set(needed) == set(BOTH) for each in requirements for needed in each.values())
    requirements = document["paths"][ME]["get"]["security"]
    assert all(needed == [] for each in requirements for needed in each.values())
