"""The probes: what they say when all is well, and when something is away."""

import asyncio

import httpx2
from fastapi import FastAPI

from app.platform.http.health import Readiness
from app.settings import Settings
from tests.conftest import client_for, running_app

# Nothing listens there: port 9 is "discard", and below what anyone may bind.
AWAY = {"redis_url": "redis://127.0.0.1:9/0", "database_url": "postgresql+asyncpg://127.0.0.1:9/x"}


async def ready(app: FastAPI) -> httpx2.Response:
    async with client_for(app) as client:
        return await client.get("/health/ready")


def without(settings: Settings, name: str) -> Settings:
    return Settings.model_validate({**settings.model_dump(), name: AWAY[name]})


async def test_the_service_is_ready_when_every_dependency_is_up(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    checks = answer.json()["checks"]
    assert {"postgres", "redis"} <= set(checks)
    assert all(check["status"] == "up" and check["latency_ms"] >= 0 for check in checks.values())
    assert (await client.get("/health/live")).json() == {"status": "alive"}
    assert (await client.get("/health/startup")).json() == {"status": "started"}


async def test_without_postgres_the_service_is_live_but_not_ready(settings: Settings) -> None:
    async with running_app(without(settings, "database_url")) as app:
        answer = await ready(app)
        assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
        assert answer.json()["checks"]["postgres"]["status"] == "down"
        assert "127.0.0.1" not in answer.text
        async with client_for(app) as client:
            assert (await client.get("/health/live")).status_code == 200


async def test_without_redis_the_service_is_degraded(settings: Settings) -> None:
    async with running_app(without(settings, "redis_url")) as app:
        answer = await ready(app)
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


async def test_a_draining_service_is_not_ready(settings: Settings) -> None:
    async with running_app(settings) as app:
        app.state.draining = True
        answer = await ready(app)
        assert (answer.status_code, answer.json()["draining"]) == (503, True)


async def test_a_hanging_dependency_is_down_and_concurrent_probes_share_one_check() -> None:
    asked = 0

    async def hang() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(60)

    readiness = Readiness(timeout=0.05)
    readiness.add("slow", hang, critical=True)
    answers = await asyncio.gather(*(readiness.checks() for _ in range(20)))
    assert asked == 1
    assert all(answer["slow"].status == "down" for answer in answers)
