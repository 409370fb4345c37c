"""Claiming due jobs in batches, on a real database."""

import asyncio

from app.platform.jobs import store
from app.platform.jobs.store import Claim
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def claim(service: Service, limit: int) -> list[Claim]:
    return await store.claim_due(service.app.state.db, limit, 60)


async def test_concurrent_workers_never_claim_one_job_twice(service: Service) -> None:
    jobs = {(await service.enqueue(samples.note, text=str(number))).id for number in range(20)}
    batches = await asyncio.gather(*(claim(service, 4) for _ in range(10)))
    claimed = [each.id for batch in batches for each in batch]
    assert len(claimed) == len(set(claimed))
    while rest := await claim(service, 4):  # what was locked by another one when it looked
        claimed += [each.id for each in rest]
    assert sorted(claimed) == sorted(jobs)


async def test_the_jobs_that_have_waited_longest_are_claimed_first(service: Service) -> None:
    jobs = [(await service.enqueue(samples.note, text=str(number))).id for number in range(4)]
    first, second = await claim(service, 2), await claim(service, 2)
    assert {each.id for each in first} == set(jobs[:2])
    assert {each.id for each in second} == set(jobs[2:])


async def test_a_delayed_job_and_one_that_runs_are_not_claimed(service: Service) -> None:
    await service.enqueue(samples.note, text="later", delay=60)
    running = await service.enqueue(samples.note, text="now")
    assert [each.id for each in await claim(service, 5)] == [running.id]
    assert await claim(service, 5) == []
    await service.backdate(store.Job.due_at, 61)
    await service.backdate(store.Job.publish_at, 61)  # its lease has expired
    assert len(await claim(service, 5)) == 2
