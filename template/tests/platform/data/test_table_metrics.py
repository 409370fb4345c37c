"""Metrics of tables, while one of them is locked."""

from collections.abc import AsyncIterator, Iterable
from functools import partial

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy import func, select, table, text

from app.platform.data.table_metrics import select_for_metrics
from app.platform.observability import metrics
from app.settings import Settings
from tests.conftest import client_for, running_platform

TABLES = ("metrics_locked", "metrics_free")


async def collect(app: FastAPI, name: str) -> Iterable[Metric]:
    [(rows,)] = await select_for_metrics(app, select(func.count()).select_from(table(name)))
    return [GaugeMetricFamily(name, "Rows.", value=rows)]


@pytest.fixture
async def app(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(module_settings) as app:
        for name in TABLES:
            await app.state.db.execute(text(f"CREATE TABLE {name} (id int)"))
            await app.state.db.execute(text(f"INSERT INTO {name} VALUES (1)"))
            metrics.register(app, name, partial(collect, app, name))
        yield app
        for name in TABLES:
            await app.state.db.execute(text(f"DROP TABLE {name}"))


async def scrape(client: httpx2.AsyncClient) -> dict[str, float]:
    """The rows of each table, and whether they are current."""
    samples = [
        sample for family in parse((await client.get("/metrics")).text) for sample in family.samples
    ]
    found = {sample.name: sample.value for sample in samples if sample.name in TABLES}
    up = {s.labels["source"]: s.value for s in samples if s.name == "metric_source_up"}
    return found | {f"{name} is current": up[name] for name in TABLES}


async def test_a_locked_table_keeps_its_last_metrics_and_the_others_are_current(
    app: FastAPI,
) -> None:
    locked, free = TABLES
    both = {locked: 1, free: 1, f"{locked} is current": 1, f"{free} is current": 1}
    async with client_for(app) as client:
        assert await scrape(client) == both
        async with app.state.db.engine.begin() as other:
            await other.execute(text(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE"))
            await other.execute(text(f"INSERT INTO {locked} VALUES (2)"))
            await app.state.db.execute(text(f"INSERT INTO {free} VALUES (2)"))
            assert await scrape(client) == both | {f"{locked} is current": 0, free: 2}
        assert await scrape(client) == both | {locked: 2, free: 2}
        assert app.state.db.used == 0
