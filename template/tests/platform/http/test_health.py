"""Health probes, with all dependencies up and with one unavailable."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.engine import URL

from app.platform.http import health
from app.platform.http.health import Readiness
from app.settings import Settings
from tests.conftest import (
    client_for,
    migrate,
    needs_migrations,
    open_connection,
    run_sync,
    running_platform,
)

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
    async with running_platform(with_unreachable(settings, "database_url")) as app:
        response = await get_ready(app)
        assert (response.status_code, response.json()["status"]) == (503, "not_ready")
        assert response.json()["checks"]["postgres"]["status"] == "down"
        assert "127.0.0.1" not in response.text
        async with client_for(app) as client:
            assert (await client.get("/health/live")).status_code == 200


async def test_a_busy_pool_is_not_an_outage_of_postgres(settings: Settings) -> None:
    one = settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0})
    async with running_platform(one) as app, app.state.db.transaction() as session:
        await session.execute(text("SELECT 1"))
        response = await get_ready(app)
    assert (response.status_code, response.json()["status"]) == (200, "ready")


async def test_an_outage_is_noticed_while_the_pool_is_busy(settings: Settings) -> None:
    changes = {"database_url": UNREACHABLE["database_url"], "db_pool_size": 1, "db_max_overflow": 0}
    one = Settings.model_validate(settings.model_dump() | changes)
    async with running_platform(one) as app, app.state.db._slots:
        assert app.state.db.exhausted
        response = await get_ready(app)
    assert response.status_code == 503
    assert response.json()["checks"]["postgres"]["status"] == "down"


async def test_a_server_without_a_connection_to_spare_is_not_down(
    settings: Settings, create_database: Callable[..., URL], migrated_template: str
) -> None:
    url = create_database(migrated_template)
    role = url.set(username=f"{url.database}_limited", password="limited")
    async with open_connection(url) as admin:
        for statement in (
            f"CREATE ROLE {role.username} LOGIN PASSWORD 'limited' CONNECTION LIMIT 1",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role.username}",
        ):
            await admin.execute(text(statement))
        await admin.commit()
        changes = {"db_pool_size": 1, "db_max_overflow": 0}
        async with running_platform(
            with_database(settings, role).model_copy(update=changes)
        ) as app:
            assert (await get_ready(app)).status_code == 200
            app.state.readiness = Readiness(pings=app.state.readiness.pings)
            async with app.state.db.transaction() as session:
                await session.execute(text("SELECT 1"))
                assert (await get_ready(app)).status_code == 200
        for statement in (f"DROP OWNED BY {role.username}", f"DROP ROLE {role.username}"):
            await admin.execute(text(statement))
        await admin.commit()


def with_database(settings: Settings, url: URL) -> Settings:
    changes = {"database_url": url.render_as_string(hide_password=False)}
    return Settings.model_validate(settings.model_dump() | changes)


@needs_migrations
async def test_a_database_without_tables_is_not_ready_until_it_is_migrated(
    settings: Settings, create_database: Callable[..., URL]
) -> None:
    url = create_database()
    async with running_platform(with_database(settings, url)) as app:
        response = await get_ready(app)
        assert (response.status_code, response.json()["status"]) == (503, "not_ready")
        check = response.json()["checks"]["migrations"]
        assert (check["status"], check["error"]) == ("down", "MigrationsPending")
        await asyncio.to_thread(run_sync, migrate(url))
        app.state.readiness = Readiness(pings=app.state.readiness.pings)  # without cached results
        assert (await get_ready(app)).status_code == 200


@needs_migrations
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("INSERT INTO alembic_version VALUES ('of_a_newer_release')", 200),
        (
            "WITH known AS (DELETE FROM alembic_version)"
            " INSERT INTO alembic_version VALUES ('of_a_newer_release')",
            200,
        ),
        ("DELETE FROM alembic_version", 503),
    ],
    ids=["newer branch", "newer", "older"],
)
async def test_a_database_that_a_newer_release_has_migrated_is_ready(
    settings: Settings,
    create_database: Callable[..., URL],
    migrated_template: str,
    change: str,
    status: int,
) -> None:
    url = create_database(migrated_template)
    async with open_connection(url) as connection:
        await connection.execute(text(change))
        await connection.commit()
    async with running_platform(with_database(settings, url)) as app:
        assert (await get_ready(app)).status_code == status


@needs_migrations
async def test_migrations_are_not_asked_for_again_once_they_are_applied(
    settings: Settings,
) -> None:
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    async with running_platform(settings) as app:
        event.listen(app.state.db.engine.sync_engine, "before_cursor_execute", record)
        for _ in range(2):
            app.state.readiness = Readiness(pings=app.state.readiness.pings)
            assert (await get_ready(app)).status_code == 200
    assert len([each for each in statements if "alembic_version" in each]) == 2


async def test_without_redis_the_service_is_degraded(settings: Settings) -> None:
    async with running_platform(with_unreachable(settings, "redis_url")) as app:
        response = await get_ready(app)
        assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_a_draining_service_is_not_ready(settings: Settings) -> None:
    async with running_platform(settings) as app:
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


async def test_a_check_names_the_time_that_it_had() -> None:
    readiness = Readiness(timeout=0.01)
    readiness.add("usual", asyncio.Event().wait, critical=True)
    readiness.add("longer", asyncio.Event().wait, critical=True, extra_time=0.02)
    checks = await readiness.checks()
    assert checks["usual"].error == "no answer within 0.01 s"
    assert checks["longer"].error == "no answer within 0.03 s"


async def test_metrics_report_each_dependency_and_do_not_wait_for_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "METRICS_TIMEOUT", 0.01)

    async def up() -> None: ...

    async def hang() -> None:
        await asyncio.sleep(60)

    async def reported(readiness: Readiness) -> dict[tuple[str, str], float]:
        (metric,) = await readiness.collect()
        samples = metric.samples
        return {(x.labels["dependency"], x.labels["critical"]): x.value for x in samples}

    readiness = Readiness(timeout=0.03)
    readiness.add("here", up, critical=False)
    assert await reported(readiness) == {("here", "false"): 1}
    readiness = Readiness(timeout=0.03)
    readiness.add("slow", hang, critical=True)
    assert await reported(readiness) == {}
    await readiness.checks()
    assert await reported(readiness) == {("slow", "true"): 0}


async def test_checks_that_outlast_a_scrape_end_with_the_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "METRICS_TIMEOUT", 0.0)
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running_platform(settings) as app:
        app.state.readiness.add("slow", hang, critical=False, extra_time=60)
        await app.state.readiness.collect()
        await started.wait()
        assert not ended.is_set()
    assert ended.is_set()
