"""Workers use no more connections than are counted, and outlive a server that is away."""

import asyncio

import pytest

from app.platform.jobs import capacity, pools
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.system.jobs.conftest import Start
from tests.system.jobs.link import Link

OUTAGE = 3.0  # seconds: every process has used its connections by then, and failed


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
async def test_an_outage_is_survived(
    variable: str, links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links[variable]
    changes = {variable: link.url, "JOBS_REPUBLISH_AFTER": "1", "WORKER_CONCURRENCY": "2"}
    processes = [start("worker", **changes), start("scheduler", **changes)]
    interrupted = await service.enqueue(samples.wait, gate="open")
    await service.started("open")
    link.cut()
    during = await service.enqueue(samples.note, text="during")
    await asyncio.sleep(OUTAGE)
    await service.app.state.redis.flushdb()
    await link.mend()
    await service.app.state.redis.set("open", 1)
    after = await service.enqueue(samples.note, text="after")
    for job in (interrupted, during, after):
        await service.becomes(job.id, "succeeded")
    for process in processes:
        process.terminate()
    assert [await process.ended() for process in processes] == [0, 0]


async def test_a_worker_opens_no_more_connections_than_are_counted(
    links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links["DATABASE_URL"]
    start("worker", DATABASE_URL=link.url, WORKER_CONCURRENCY="3")
    crowds = [await service.enqueue(samples.crowd) for _ in range(3)]
    for crowd in crowds:
        await service.becomes(crowd.id, "succeeded")
    settings = service.settings.model_copy(update={"worker_concurrency": 3})
    assert 3 < link.most <= capacity.worker_connections(settings)


async def test_a_scheduler_opens_no_more_connections_than_are_counted(
    links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links["DATABASE_URL"]
    start("scheduler", DATABASE_URL=link.url)
    start("worker")
    for _ in range(3):
        job = await service.enqueue(samples.fail_then_succeed, times=1)
        await service.becomes(job.id, "succeeded")
    assert 0 < link.most <= pools.SCHEDULER
