"""Engines, HTTP clients and connection pools: the service makes them at its start, no request."""

import re
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from redis.asyncio import ConnectionPool
from sqlalchemy import Connection, Engine, event


@pytest.fixture
def made(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The number of clients and pools made in this test, and of uses of another engine."""
    made: Counter[str] = Counter()

    def count(kind: type) -> None:
        original = kind.__init__

        def init(instance: Any, *args: Any, **kwargs: Any) -> None:
            made[kind.__name__] += 1
            original(instance, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", init)

    def connected(connection: Connection) -> None:
        if connection.engine is not app.state.db.engine.sync_engine:
            made["Engine"] += 1

    count(httpx2.AsyncHTTPTransport)
    count(ConnectionPool)
    event.listen(Engine, "engine_connect", connected)
    yield made
    event.remove(Engine, "engine_connect", connected)


async def test_requests_make_no_engine_no_http_client_and_no_redis_pool(
    app: FastAPI, alice: httpx2.AsyncClient, made: Counter[str]
) -> None:
    paths = app.openapi()["paths"]
    for path in sorted(paths, key=lambda path: "logout" in path):
        url = re.sub(r"{[^}]*}", str(uuid.uuid4()), path)
        for method in paths[path]:
            await alice.request(method, url, json={"name": "x"})
    assert not made
