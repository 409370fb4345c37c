"""Publishing through a broker: its limit, lost messages and duplicates, on a real database."""

import asyncio
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from app.platform.jobs import store
from app.platform.jobs.publishing import PUBLISH_GRACE, claim_unpublished, publish_new
from app.platform.jobs.queue import Publisher
from app.platform.jobs.scheduler import BATCH_SIZE, Scheduler
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def test_requests_stop_publishing_at_the_queue_limit(service: Service) -> None:
    transport = service.app.state.transport
    settings = service.settings.model_copy(update={"jobs_queue_limit": 10})
    publisher = Publisher(partial(publish_new, transport, settings))
    for _ in range(5):
        publisher.publish([uuid4() for _ in range(4)])
        await publisher.flush()
    assert await transport.depth() == 10


async def test_jobs_that_redis_lost_are_published_again(service: Service) -> None:
    await service.enqueue(samples.note, text="survivor")
    await service.app.state.jobs.flush()
    assert await service.app.state.transport.depth() == 1
    await service.app.state.redis.flushdb()
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 0  # not yet: it may have been delivered
    await service.backdate(store.Job.publish_at, service.settings.jobs_republish_after)
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 1


@pytest.mark.parametrize(("waited", "interval"), [(0, 10), (40, 40), (5000, 100)])
async def test_the_republish_interval_grows_with_the_waiting_time(
    service: Service, waited: float, interval: float
) -> None:
    await service.enqueue(samples.note, text="waiting")
    await service.backdate(store.Job.due_at, waited)
    await service.backdate(store.Job.publish_at, PUBLISH_GRACE)
    async with service.app.state.db.transaction() as session:
        assert await claim_unpublished(session, 1, republish_after=10)
        actual = await session.scalar(select(store.Job.publish_at - func.now()))
    assert actual
    assert actual.total_seconds() == pytest.approx(interval, abs=5)


async def test_the_scheduler_stops_publishing_at_the_queue_limit(service: Service) -> None:
    async with service.app.state.db.transaction() as session:
        queue = service.app.state.jobs.queue_for(session)
        for number in range(30):
            await queue.enqueue(samples.note, text=str(number), delay=0.001)
    await asyncio.sleep(0.01)
    settings = service.settings.model_copy(update={"jobs_queue_limit": 10})
    scheduler = Scheduler(service.app, settings)
    for _ in range(3):
        await scheduler.step()
    assert await service.app.state.transport.depth() == 10 < BATCH_SIZE
