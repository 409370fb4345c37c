"""Connections of background processes: their budget, and outages."""

import asyncio

import pytest

from app.platform.jobs import capacity, pools
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.system.jobs.conftest import Start
from tests.system.jobs.proxy import Proxy

OUTAGE = 3.0  # seconds, long enough for every process to fail


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
async def test_background_processes_survive_an_outage(
    variable: str, proxies: dict[str, Proxy], service: Service, start: Start
) -> None:
    proxy = proxies[variable]
    changes = {variable: proxy.url, "WORKER_CONCURRENCY": "2"}
    changes["JOBS_BACKOFF_MAX"] = "0.5"  # of the job that waits for a key in Redis
    processes = [start("worker", **changes), start("scheduler", **changes)]
    interrupted = await service.enqueue(samples.wait_for_gate, gate="open")
    await service.wait_for_start("open")
    proxy.stop()
    during = await service.enqueue(samples.echo, text="during")
    await asyncio.sleep(OUTAGE)
    await service.app.state.redis.flushdb()
    await proxy.start()
    await service.app.state.redis.set("open", 1)
    after = await service.enqueue(samples.note, text="after")
    for job in (interrupted, during, after):
        await service.wait_for_status(job.id, "succeeded")
    await processes[1].wait_for_event("scheduler started")
    for process in processes:
        process.terminate()
    assert [await process.wait() for process in processes] == [0, 0]


async def test_a_worker_stays_within_its_connection_budget(
    proxies: dict[str, Proxy], service: Service, start: Start
) -> None:
    proxy = proxies["DATABASE_URL"]
    start("worker", DATABASE_URL=proxy.url, WORKER_CONCURRENCY="3", WORKER_SCHEDULER="true")
    jobs = [await service.enqueue(samples.concurrent_transactions) for _ in range(3)]
    for job in jobs:
        await service.wait_for_status(job.id, "succeeded")
    settings = service.settings.model_copy(update={"worker_concurrency": 3})
    assert 3 < proxy.max_sessions <= capacity.worker_connections(settings)


async def test_a_scheduler_stays_within_its_connection_budget(
    proxies: dict[str, Proxy], service: Service, start: Start
) -> None:
    proxy = proxies["DATABASE_URL"]
    start("scheduler", DATABASE_URL=proxy.url)
    start("worker")
    for _ in range(3):
        job = await service.enqueue(samples.fail_then_succeed, times=1)
        await service.wait_for_status(job.id, "succeeded")
    assert 0 < proxy.max_sessions <= pools.SCHEDULER_CONNECTIONS
