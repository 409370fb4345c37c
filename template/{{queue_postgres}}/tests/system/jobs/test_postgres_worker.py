"""How workers without a broker hear of jobs: notifications, and polling behind them."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import text

from app.platform.data.database import open_database
from app.platform.jobs.names import QUEUE
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Start

LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


async def execute(service: Service, statement: str, **values: Any) -> Any:
    async with open_database(service.settings) as database:
        return await database.read(lambda c: c.execute(text(statement), values).scalar())


async def wait_for_listeners(service: Service, number: int) -> None:
    end = time.monotonic() + TIMEOUT
    while await execute(service, f"SELECT count(*) {LISTENERS}") != number:
        assert time.monotonic() < end, "no listener"
        await asyncio.sleep(0.05)


async def test_a_notification_starts_a_job_long_before_the_next_poll(
    service: Service, start: Start
) -> None:
    start("worker", JOBS_POLL_INTERVAL="60")
    await wait_for_listeners(service, 1)
    for text_ in ("a", "b"):
        job = await service.enqueue(samples.note, text=text_)
        async with asyncio.timeout(20):
            await service.wait_for_status(job.id, "succeeded")


async def test_a_job_whose_notification_is_lost_starts_at_the_next_poll(
    service: Service, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start("worker", JOBS_POLL_INTERVAL="0.2")
    await wait_for_listeners(service, 1)
    await execute(service, f"SELECT pg_terminate_backend(pid) {LISTENERS}")
    job = await service.enqueue(samples.note, text="unheard")
    await service.wait_for_status(job.id, "succeeded")
    assert worker.is_running()


async def test_a_worker_listens_again_after_it_lost_its_connection(
    service: Service, start: Start
) -> None:
    start("worker", module="tests.system.jobs.listening")
    await wait_for_listeners(service, 1)
    await execute(service, f"SELECT pg_terminate_backend(pid) {LISTENERS}")
    await wait_for_listeners(service, 0)
    await wait_for_listeners(service, 1)


async def test_a_worker_behind_pgbouncer_polls_and_does_not_listen(
    service: Service, start: Start
) -> None:
    start("worker", DB_PGBOUNCER="true", JOBS_POLL_INTERVAL="0.2")
    for text_ in ("a", "b"):
        job = await service.enqueue(samples.note, text=text_)
        await service.wait_for_status(job.id, "succeeded")
    await wait_for_listeners(service, 0)


async def test_foreign_notifications_do_not_stop_a_worker(service: Service, start: Start) -> None:
    start("worker", JOBS_POLL_INTERVAL="60")
    await wait_for_listeners(service, 1)
    await execute(
        service, "SELECT pg_notify(:queue, :payload)", queue=QUEUE, payload="no id " + "x" * 7000
    )
    job = await service.enqueue(samples.note, text="next")
    async with asyncio.timeout(20):
        await service.wait_for_status(job.id, "succeeded")
