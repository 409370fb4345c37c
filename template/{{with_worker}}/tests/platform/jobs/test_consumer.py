"""The consumer of a worker: one wake-up, all due jobs, and never more than its concurrency."""

import asyncio
from uuid import UUID

from app.platform.jobs.consumer import Consumer
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


def consumer_of(service: Service, concurrency: int) -> Consumer:
    return Consumer(service.app, service.settings, service.runner, concurrency)


async def test_one_wake_up_runs_every_due_job(service: Service) -> None:
    jobs = [await service.enqueue(samples.note, text=str(number)) for number in range(5)]
    later = await service.enqueue(samples.note, text="later", delay=60)
    consumer = consumer_of(service, concurrency=2)
    await consumer.drain()
    await consumer.finish()
    assert {(await service.status(job.id)).status for job in jobs} == {"succeeded"}
    assert (await service.status(later.id)).status == "queued"


async def test_a_worker_with_more_jobs_than_it_can_start_wakes_another_one_once(
    service: Service,
) -> None:
    woken: list[UUID] = []

    async def wake_another(job_id: UUID) -> None:
        woken.append(job_id)

    service.app.state.wake_another = wake_another
    consumer = consumer_of(service, concurrency=2)
    await service.enqueue(samples.note, text="alone")
    await consumer.drain()
    assert woken == []
    for number in range(5):
        await service.enqueue(samples.note, text=str(number))
    await consumer.drain()
    await consumer.finish()
    assert len(woken) == 1


async def test_concurrent_wake_ups_run_at_most_the_concurrency(service: Service) -> None:
    jobs = [await service.enqueue(samples.wait_for_gate, gate="open") for _ in range(4)]
    consumer = consumer_of(service, concurrency=2)
    draining = [asyncio.create_task(consumer.drain()) for _ in range(3)]
    for _ in range(2):
        await service.wait_for_start("open")
    running = [job for job in jobs if (await service.status(job.id)).status == "running"]
    assert len(running) == 2
    await service.app.state.redis.set("open", 1)
    await asyncio.gather(*draining)
    await consumer.finish()
    assert {(await service.status(job.id)).status for job in jobs} == {"succeeded"}


async def test_a_consumer_that_stops_finishes_its_jobs_and_starts_no_other(
    service: Service,
) -> None:
    running = await service.enqueue(samples.wait_for_gate, gate="open")
    waiting = await service.enqueue(samples.note, text="for another worker")
    consumer = consumer_of(service, concurrency=1)
    draining = asyncio.create_task(consumer.drain())
    await service.wait_for_start("open")
    consumer.stop()
    await draining
    await service.app.state.redis.set("open", 1)
    await consumer.finish()
    assert (await service.status(running.id)).status == "succeeded"
    assert (await service.status(waiting.id)).status == "queued"
