"""Health probes, with all dependencies up and with one unavailable."""

import asyncio

import httpx2
from fastapi import FastAPI

from app.platform.http.health import Readiness
from app.settings import Settings
from tests.conftest import client_for, running_app

# Nothing listens on port 9 (discard), which is a privileged port.
UNREACHABLE = {
    "redis_url": "redis://127.0.0.1:9/0",
    "database_url": "postgresql+asyncpg://127.0.0.1:9/x",
}


async def get_ready(app: FastAPI) -> httpx2.Response:
    async with client_for(app) as client:
        return await client.get("/health/ready")


def with_unreachable(settings: Settings, name: str) -> Settings:
    return Settings.model_validate({**settings.model_dump(), name: UNREACHABLE[name]})


async def test_the_service_is_ready_when_every_dependency_is_up(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    checks = response.json()["checks"]
    assert {"postgres", "redis"} <= set(checks)
    assert all(check["status"] == "up" and check["latency_ms"] >= 0 for check in checks.values())
    assert (await client.get("/health/live")).json() == {"status": "alive"}
    assert (await client.get("/health/startup")).json() == {"status": "started"}


async def test_without_postgres_the_service_is_live_but_not_ready(settings: Settings) -> None:
    async with running_app(with_unreachable(settings, "database_url")) as app:
        response = await get_ready(app)
        assert (response.status_code, response.json()["status"]) == (503, "not_ready")
        assert response.json()["checks"]["postgres"]["status"] == "down"
        assert "127.0.0.1" not in response.text
        async with client_for(app) as client:
            assert (await client.get("/health/live")).status_code == 200


async def test_without_redis_the_service_is_degraded(settings: Settings) -> None:
    async with running_app(with_unreachable(settings, "redis_url")) as app:
        response = await get_ready(app)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_a_draining_service_is_not_ready(settings: Settings) -> None:
    async with running_app(settings) as app:
        app.state.draining = True
        response = await get_ready(app)
        assert (response.status_code, response.json()["draining"]) == (503, True)


async def test_a_hanging_dependency_is_down_and_concurrent_probes_share_one_check() -> None:
    pings = 0

    async def hang() -> None:
        nonlocal pings
        pings += 1
        await asyncio.sleep(60)

    readiness = Readiness(timeout=0.05)
    readiness.add("slow", hang, critical=True)
    results = await asyncio.gather(*(readiness.checks() for _ in range(20)))
    assert pings == 1
    assert all(checks["slow"].status == "down" for checks in results)
