"""The scheduler: publishing, cron schedules and retention, on a real database."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from app.platform.jobs import job, registry, scheduler, schedules, store
from app.platform.jobs.metrics import collect_schedules
from app.platform.jobs.registry import JobDefinition, get_definition
from app.platform.jobs.scheduler import Scheduler
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def test_a_delayed_job_is_not_published_before_it_is_due(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="later", delay=60)
    await service.runner.run(enqueued.id)
    await service.scheduler.step()
    assert (await service.status(enqueued.id)).status == "queued"
    assert await service.app.state.transport.depth() == 0
    await service.backdate(store.Job.due_at, 61)
    await service.backdate(store.Job.publish_at, 61)
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 1
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).status == "succeeded"


# Twelve hours from now, so that no tick is near whenever this runs.
NIGHT = (datetime.now(UTC) + timedelta(hours=12)).replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> JobDefinition:
    """A nightly job, the only one that is registered in this test."""
    monkeypatch.setattr(registry, "_by_name", {})

    @job(name="tests.nightly", cron=f"0 {NIGHT.hour} * * *")
    async def nightly(context: Any) -> None: ...

    return get_definition("tests.nightly")


async def test_concurrent_schedulers_enqueue_a_scheduled_job_once(
    service: Service, scheduled: JobDefinition
) -> None:
    schedulers = [Scheduler(service.app, service.settings) for _ in range(4)]
    for moment in (NIGHT, NIGHT + timedelta(seconds=1), NIGHT + timedelta(hours=5)):
        await asyncio.gather(*(scheduler.enqueue_scheduled(moment) for scheduler in schedulers))
    assert [status.name for status in await service.statuses()] == ["tests.nightly"]
    await Scheduler(service.app, service.settings).enqueue_scheduled(
        NIGHT + timedelta(days=1, minutes=1)
    )
    assert len(await service.statuses()) == 2


async def test_a_new_schedule_does_not_run_past_ticks(
    service: Service, scheduled: JobDefinition
) -> None:
    await service.scheduler.enqueue_scheduled(datetime.now(UTC))
    assert await service.statuses() == []


async def test_missed_ticks_enqueue_a_scheduled_job_once(
    service: Service, scheduled: JobDefinition
) -> None:
    await service.scheduler.enqueue_scheduled(datetime.now(UTC))
    await Scheduler(service.app, service.settings).enqueue_scheduled(NIGHT + timedelta(days=9))
    assert len(await service.statuses()) == 1


@pytest.mark.parametrize("cron", ["every night", "61 * * * *", "0 0 30 2 *"])
def test_an_invalid_schedule_is_rejected_at_startup(cron: str) -> None:
    with pytest.raises(ValueError, match=r"tests.platform.jobs.samples.note: cron=.* is invalid"):
        schedules.validate([replace(get_definition("tests.platform.jobs.samples.note"), cron=cron)])


def test_a_scheduled_job_with_required_arguments_is_rejected() -> None:
    with pytest.raises(ValueError, match="scheduled jobs run without arguments"):
        schedules.validate(
            [replace(get_definition("tests.platform.jobs.samples.note"), cron="* * * * *")]
        )


async def test_finished_jobs_are_deleted_after_their_retention(service: Service) -> None:
    succeeded = await service.enqueue(samples.note, text="old")
    dead = await service.enqueue(samples.always_fails)
    for status in (succeeded, dead):
        await service.run_until_finished(status.id)
    fresh = await service.enqueue(samples.note, text="new")

    await service.scheduler.prune()
    assert len(await service.statuses()) == 3
    await service.backdate(store.Job.finished_at, 8 * 86_400)
    await service.scheduler.prune()
    assert [status.id for status in await service.statuses()] == [dead.id, fresh.id]
    await service.backdate(store.Job.finished_at, 31 * 86_400)
    await service.scheduler.prune()
    assert [status.id for status in await service.statuses()] == [fresh.id]


async def test_a_step_deletes_a_part_of_many_jobs_and_the_next_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nothing scheduled would start until millions of old jobs are gone."""
    monkeypatch.setattr(scheduler, "BATCH_SIZE", 1)
    monkeypatch.setattr(scheduler, "MAX_PRUNE", 0)
    for _ in range(2):
        await service.run_until_finished((await service.enqueue(samples.note, text="old")).id)
    await service.backdate(store.Job.finished_at, 8 * 86_400)
    left = []
    for _ in range(2):
        await service.scheduler.step()
        left.append(len(await service.statuses()))
    assert left == [1, 0]


async def test_the_oldest_jobs_are_deleted_first(service: Service) -> None:
    younger, older = [await service.enqueue(samples.note, text="old") for _ in range(2)]
    for status, days in ((younger, 8), (older, 9)):
        await service.run_until_finished(status.id)
        finished = datetime.now(UTC) - timedelta(days=days)
        async with service.app.state.db.transaction() as session:
            of_job = update(store.Job).where(store.Job.id == status.id)
            await session.execute(of_job.values(finished_at=finished))

    async with service.app.state.db.transaction() as session:
        assert await store.prune(session, 7, 30, limit=1) == 1
    assert [status.id for status in await service.statuses()] == [younger.id]


async def test_the_clean_up_leaves_a_job_that_another_transaction_holds(service: Service) -> None:
    for _ in range(2):
        await service.run_until_finished((await service.enqueue(samples.note, text="old")).id)
    await service.backdate(store.Job.finished_at, 8 * 86_400)
    db = service.app.state.db
    async with db.engine.begin() as other, db.transaction() as session:
        await other.execute(select(store.Job.id).limit(1).with_for_update())
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert await store.prune(session, 7, 30, limit=10) == 1


async def test_a_tick_that_no_scheduler_claims_shows_in_the_metric_of_its_alert(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_by_name", {})

    @job(name="tests.each_minute", cron="* * * * *")
    async def each_minute(context: Any) -> None: ...

    async def late() -> float:
        (value,) = [
            sample.value
            for metric in await collect_schedules(service.app)
            for sample in metric.samples
            if sample.name == "jobs_schedule_late_seconds"
        ]
        return value

    scheduler = Scheduler(service.app, service.settings)
    await scheduler.enqueue_scheduled(datetime.now(UTC))
    assert await late() < 60
    async with service.app.state.db.transaction() as session:
        before = store.Schedule.ticked_at - timedelta(minutes=30)
        await session.execute(update(store.Schedule).values(ticked_at=before))
    assert 1740 - 60 <= await late() <= 1800 + 60
