from typing import Annotated

from fastapi import FastAPI

from app.auth import CurrentUser, User, require, user_id
from app.platform.http.rate_limit import limit
from app.settings import Settings
from tests.conftest import client_for, running_app

URL = "/api/v1/guarded"


async def guarded(caller: CurrentUser, admin: Annotated[User, require("admin")]) -> str:
    assert caller == admin
    return caller.id


async def test_every_caller_has_every_scope(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        app.add_api_route(URL, guarded)
        plain = await client.get(URL)
        with_token = await client.get(URL, headers={"Authorization": "Bearer whatever"})

    assert [plain.status_code, with_token.status_code] == [200, 200]
    assert plain.json() == with_token.json() == "anonymous"


async def test_a_limit_by_caller_is_shared_by_all(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        await app.state.redis.flushdb()
        app.add_api_route(URL, guarded, dependencies=[limit("e", "1/hour", by=user_id)])
        answers = [await client.get(URL) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]


async def test_the_api_document_has_no_security_scheme(app: FastAPI) -> None:
    document = app.openapi()

    assert "securitySchemes" not in document["components"]
    assert [path for path in document["paths"] if "/auth/" in path] == []
