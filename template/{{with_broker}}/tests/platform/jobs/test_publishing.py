"""Messages of a broker: what wakes workers, how many there are, and lost ones."""

from functools import partial
from uuid import uuid4

from app.platform.jobs.consumer import Consumer
from app.platform.jobs.publishing import MAX_SCHEDULED, pass_on, publish_new
from app.platform.jobs.queue import Publisher
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def test_requests_stop_publishing_at_the_queue_limit(service: Service) -> None:
    transport = service.app.state.transport
    settings = service.settings.model_copy(update={"jobs_queue_limit": 10})
    publisher = Publisher(partial(publish_new, transport, settings))
    for _ in range(12):
        publisher.publish([uuid4() for _ in range(4)])
        await publisher.flush()
    assert await transport.depth() == 10
    await service.app.state.redis.flushdb()  # as if workers had taken them all
    publisher.publish([uuid4()])
    await publisher.flush()
    assert await transport.depth() == 1


async def test_the_jobs_of_a_transaction_are_one_message(service: Service) -> None:
    async with service.app.state.db.transaction() as session:
        queue = service.app.state.jobs.queue_for(session)
        for number in range(30):
            await queue.enqueue(samples.note, text=str(number))
    await service.app.state.jobs.flush()
    assert await service.app.state.transport.depth() == 1


async def test_jobs_whose_message_redis_lost_are_found_by_the_next_step(service: Service) -> None:
    await service.enqueue(samples.note, text="survivor")
    await service.app.state.jobs.flush()
    await service.app.state.redis.flushdb()
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 1


async def test_messages_do_not_add_up_while_jobs_wait(service: Service) -> None:
    transport = service.app.state.transport
    await service.enqueue(samples.note, text="waiting")
    for _ in range(MAX_SCHEDULED + 2):
        await service.scheduler.step()
    assert await transport.depth() == MAX_SCHEDULED


async def test_a_message_that_no_worker_takes_does_not_hide_jobs(service: Service) -> None:
    transport = service.app.state.transport
    await transport.publish(uuid4())  # as of a worker that received it and died
    await service.enqueue(samples.note, text="waiting")
    await service.app.state.jobs.flush()
    assert await transport.depth() == 2
    await service.scheduler.step()
    assert await transport.depth() == 3


async def test_the_scheduler_wakes_nobody_if_no_job_is_due(service: Service) -> None:
    await service.enqueue(samples.note, text="later", delay=60)
    done = await service.enqueue(samples.note, text="done")
    await service.runner.run(done.id)
    await service.app.state.jobs.flush()
    await service.app.state.redis.flushdb()
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 0


async def test_a_full_worker_wakes_one_more(service: Service) -> None:
    transport = service.app.state.transport
    for number in range(6):
        await service.enqueue(samples.note, text=str(number))
    await service.app.state.jobs.flush()
    await service.app.state.redis.flushdb()
    consumer = Consumer(service.app, service.settings, service.runner, concurrency=2)
    await consumer.drain()
    await consumer.finish()
    assert await transport.depth() == 1
    await pass_on(service.app, uuid4())  # there is a message already
    assert await transport.depth() == 1


async def test_a_worker_with_room_for_all_jobs_wakes_nobody(service: Service) -> None:
    await service.enqueue(samples.note, text="only")
    await service.app.state.jobs.flush()
    await service.app.state.redis.flushdb()
    consumer = Consumer(service.app, service.settings, service.runner, concurrency=2)
    await consumer.drain()
    await consumer.finish()
    assert await service.app.state.transport.depth() == 0
