from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, update

from app.auth import CurrentUser, User, require, user_id
from app.auth.models import Account
from app.limits import limit
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_of, running

URL = "/api/v1/guarded"
EMAIL = "ada@example.com"


@pytest.fixture
async def app(fresh_settings: Settings) -> AsyncIterator[FastAPI]:
    async def guarded(
        caller: CurrentUser,
        reader: Annotated[User, require("things:read")],
        writer: Annotated[User, require("things:write", "things:read")],
    ) -> str:
        assert caller == reader == writer
        return caller.id

    async with running(fresh_settings) as app:
        await app.state.redis.flushdb()
        app.add_api_route(URL, guarded)
        yield app


async def allow(app: FastAPI, *scopes: str) -> None:
    async with app.state.db.transaction() as db:
        await db.execute(update(Account).values(scopes=list(scopes)))


@pytest.fixture
async def ada(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app) as client:
        await sign_in(client, EMAIL)
        await allow(app, "things:read", "things:write")
        client.headers.update(await sign_in(client, EMAIL))
        yield client


async def test_who_has_the_scopes_may(ada: httpx2.AsyncClient) -> None:
    me = (await ada.get("/api/v1/auth/me")).json()
    answer = await ada.get(URL)

    assert me["scopes"] == ["things:read", "things:write"]
    assert (answer.status_code, answer.json()) == (200, me["id"])


async def test_who_lacks_one_is_told_which(app: FastAPI, ada: httpx2.AsyncClient) -> None:
    await allow(app, "things:read")  # taken away: the token still says that she may
    answer = await ada.get(URL)

    assert answer.status_code == 403
    assert answer.json()["code"] == "forbidden"
    assert 'scope="things:write things:read"' in answer.headers["WWW-Authenticate"]


async def test_a_token_never_does_more_than_it_says(app: FastAPI, ada: httpx2.AsyncClient) -> None:
    async with client_of(app) as client:
        await allow(app)
        client.headers.update(await sign_in(client, EMAIL))
        await allow(app, "things:read", "things:write")
        answer = await client.get(URL)

    assert answer.status_code == 403


async def test_nobody_may_nothing(app: FastAPI) -> None:
    async with client_of(app) as client:
        assert (await client.get(URL)).status_code == 401


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(_: Any, __: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    engine = app.state.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


async def test_however_many_ask_who_it_is_the_database_is_asked_once(
    app: FastAPI, ada: httpx2.AsyncClient
) -> None:
    with statements(app) as seen:
        assert (await ada.get(URL)).is_success

    assert len(seen) == 1


async def test_a_limit_can_count_by_caller(app: FastAPI, ada: httpx2.AsyncClient) -> None:
    async def export() -> None: ...

    app.add_api_route("/api/v1/export", export, dependencies=[limit("e", "1/hour", by=user_id)])
    async with client_of(app) as bob:
        bob.headers.update(await sign_in(bob, "bob@example.com"))
        answers = [await ada.get("/api/v1/export") for _ in range(2)]
        answers.append(await bob.get("/api/v1/export"))

    assert [answer.status_code for answer in answers] == [200, 429, 200]


async def test_the_api_document_says_how_to_sign_in_and_what_a_route_needs(app: FastAPI) -> None:
    document = app.openapi()

    scheme = document["components"]["securitySchemes"]["bearer"]
    assert scheme["flows"]["password"]["tokenUrl"] == "/api/v1/auth/login"
    assert document["paths"]["/api/v1/auth/me"]["get"]["security"] == [{"bearer": []}]
    (needed,) = document["paths"][URL]["get"]["security"]
    assert set(needed["bearer"]) == {"things:read", "things:write"}
    assert "security" not in document["paths"]["/api/v1/auth/login"]["post"]
