"""The ledger, the runner and the scheduler, on a real database; the test calls them in turn."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update

from app.platform.data.database import Database
from app.platform.jobs import job, runner, schedules, store
from app.platform.jobs.attempt import reason
from app.platform.jobs.commands import list_jobs, replay_dead
from app.platform.jobs.queue import PUBLISH_GRACE, Publisher
from app.platform.jobs.registry import JobDefinition, get_definition
from app.platform.jobs.runner import RELEASE_OVERLAP
from app.platform.jobs.scheduler import BATCH, Scheduler
from tests.actors import sign_in
from tests.conftest import client_for
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def age(service: Service, column: Any, seconds: float) -> None:
    """Pretend that a time of every job lies further back."""
    async with service.app.state.db.transaction() as session:
        earlier = {column.key: column - timedelta(seconds=seconds)}
        await session.execute(update(store.Job).values(earlier))


async def run_until_finished(service: Service, job_id: Any) -> None:
    while not (await service.status(job_id)).finished:
        await service.runner.run(job_id)
        await asyncio.sleep(0.02)


async def test_a_job_is_run_and_its_result_kept(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="hello")
    assert enqueued.status == "queued"
    await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.result, status.attempts) == ("succeeded", "HELLO", 1)


async def test_a_rolled_back_transaction_leaves_no_job(service: Service) -> None:
    async def fail_after_enqueuing() -> None:
        async with service.app.state.db.transaction() as session:
            await service.app.state.jobs.queue_for(session).enqueue(samples.note, text="never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_enqueuing()
    await service.app.state.jobs.finish()
    assert await service.all() == []
    assert await service.app.state.transport.depth() == 0


async def test_a_message_that_comes_twice_runs_the_job_once(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="once")
    await asyncio.gather(*(service.runner.run(enqueued.id) for _ in range(5)))
    await service.runner.run(enqueued.id)
    assert await service.app.state.redis.lrange("notes", 0, -1) == ["once"]


async def test_a_message_for_no_job_is_ignored(service: Service) -> None:
    await service.runner.run(uuid4())


async def test_a_failure_is_tried_again_later_until_it_succeeds(service: Service) -> None:
    enqueued = await service.enqueue(samples.fail_then_succeed, times=2)
    await service.runner.run(enqueued.id)
    failed = await service.status(enqueued.id)
    assert (failed.status, failed.error) == ("queued", "RuntimeError: attempt 1")
    await run_until_finished(service, enqueued.id)
    assert (await service.status(enqueued.id)).result == 3


async def test_retries_wait_longer_each_time_and_never_all_alike() -> None:
    from app.platform.jobs.attempt import backoff

    for failed, most in ((1, 5), (2, 10), (4, 40), (12, 600)):
        waits = [backoff(failed, 5, 600) for _ in range(500)]
        assert 0 <= min(waits) < most * 0.1
        assert most * 0.9 < max(waits) <= most


async def test_what_always_fails_is_listed_and_replayed(service: Service) -> None:
    enqueued = await service.enqueue(samples.fail, unique="one")
    await run_until_finished(service, enqueued.id)
    database: Database = service.app.state.db
    (dead,) = await list_jobs(database)
    assert (dead.id, dead.attempts) == (enqueued.id, 2)
    assert dead.error == "RuntimeError: password=hunter2 is wrong"

    assert await replay_dead(database, uuid4()) == 0
    assert await replay_dead(database, enqueued.id) == 1
    again = await service.status(enqueued.id)
    assert (again.status, again.attempts) == ("queued", 0)
    assert await replay_dead(database) == 0


async def test_the_caller_is_not_told_what_was_raised(service: Service) -> None:
    enqueued = await service.enqueue(samples.fail)
    await run_until_finished(service, enqueued.id)
    async with client_for(service.app) as client:
        client.headers.update(await sign_in(client, "dora@example.com"))
        status = (await client.get(f"/api/v1/jobs/{enqueued.id}")).json()
    assert (status["status"], status["error"]) == ("dead", "It failed 2 times and was given up.")
    assert "hunter2" not in str(status)


async def test_a_unique_job_is_enqueued_once_until_it_is_done(service: Service) -> None:
    first = await service.enqueue(samples.note, text="a", unique="key")
    second = await service.enqueue(samples.note, text="b", unique="key")
    other = await service.enqueue(samples.note, text="c", unique="another key")
    assert second.id == first.id != other.id
    await service.runner.run(first.id)
    third = await service.enqueue(samples.note, text="d", unique="key")
    assert third.id != first.id


async def test_twenty_at_once_enqueue_one_unique_job(service: Service) -> None:
    same = (service.enqueue(samples.note, text="x", unique="key") for _ in range(20))
    assert len({status.id for status in await asyncio.gather(*same)}) == 1


async def test_an_attempt_has_a_time_limit(service: Service) -> None:
    enqueued = await service.enqueue(samples.slow_job)
    async with asyncio.timeout(10):
        await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.error) == ("dead", "TimeoutError: It took longer than 0.2 s.")


async def test_a_job_can_not_end_its_worker(service: Service) -> None:
    enqueued = await service.enqueue(samples.leave)
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).error == "RuntimeError: The job raised SystemExit."


async def test_a_job_enqueues_another_within_its_transaction(service: Service) -> None:
    enqueued = await service.enqueue(samples.chain)
    await service.runner.run(enqueued.id)
    first, second = await service.all()
    assert (first.result, second.name) == (str(second.id), "tests.platform.jobs.samples.note")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "newer.job"}, "This release has no job called newer.job."),
        (
            {"arguments": {"text": "x", "language": "en"}},
            "This release's tests.platform.jobs.samples.note",
        ),
    ],
)
async def test_a_job_of_another_release_costs_no_attempt_until_the_deployment_must_be_over(
    service: Service, changes: dict[str, Any], error: str
) -> None:
    enqueued = await service.enqueue(samples.note, text="from a newer release")
    async with service.app.state.db.transaction() as session:
        await session.execute(update(store.Job).values(changes))
    for _ in range(3):
        await service.runner.run(enqueued.id)
        status = await service.status(enqueued.id)
        assert (status.status, status.attempts) == ("queued", 0)
        assert (status.error or "").startswith(f"UnknownJobVersion: {error}")
        await age(service, store.Job.due_at, 60)
    await age(service, store.Job.created_at, RELEASE_OVERLAP.total_seconds())
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).attempts == 1


async def test_a_result_that_postgres_does_not_take_is_a_failure(service: Service) -> None:
    enqueued = await service.enqueue(samples.unstorable_result)
    async with asyncio.timeout(10):
        await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    error = "Unstorable: Its result can't be stored as JSON in Postgres."
    assert (status.status, status.error) == ("dead", error)


def test_an_error_that_is_no_text_is_kept() -> None:
    assert reason(OSError("caf\udce9\0")) == "OSError: caf?"


async def test_a_long_job_keeps_its_lease(service: Service) -> None:
    enqueued = await service.enqueue(samples.wait, gate="open")
    first = asyncio.create_task(service.runner.run(enqueued.id))
    await service.started("open")
    await asyncio.sleep(service.settings.jobs_lease * 1.5)
    await service.runner.run(enqueued.id)  # another worker, which finds it held
    await service.app.state.redis.set("open", 1)
    await first
    assert (await service.status(enqueued.id)).attempts == 1


async def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(service: Service) -> None:
    enqueued = await service.enqueue(samples.wait, gate="open")
    first = asyncio.create_task(service.runner.run(enqueued.id))
    await service.started("open")
    await age(service, store.Job.due_at, 3600)
    second = asyncio.create_task(service.runner.run(enqueued.id))
    await service.started("open")
    async with asyncio.timeout(10):
        await first  # which was cancelled: nobody opened the gate
    await service.app.state.redis.set("open", 1)
    await second
    status = await service.status(enqueued.id)
    assert (status.status, status.result, status.attempts) == ("succeeded", 2, 2)


async def test_a_job_that_loses_a_cancellation_ends_before_it_is_given_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CANCEL_TIMEOUT", 2.0)
    stops_at_once = service.settings.model_copy(update={"worker_shutdown_timeout": 0.0})
    worker = runner.Runner(service.app, stops_at_once)
    enqueued = await service.enqueue(samples.ignores_cancel)
    running = asyncio.create_task(worker.run(enqueued.id))
    async with asyncio.timeout(10):
        await samples.LISTENS.wait()
    worker.stop()
    await running
    assert samples.ENDED.is_set()
    status = await service.status(enqueued.id)
    assert (status.status, status.attempts) == ("queued", 0)


async def test_a_job_that_kills_its_workers_is_given_up(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="deadly")
    async with service.app.state.db.transaction() as session:
        taken = {"status": "running", "attempts": 1, "started_at": func.now()}
        await session.execute(update(store.Job).values(taken))
    await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.error) == (
        "dead",
        "RuntimeError: Its worker was lost each time that it ran.",
    )
    assert await service.app.state.redis.lrange("notes", 0, -1) == []


async def test_a_delayed_job_waits(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="later", delay=60)
    await service.runner.run(enqueued.id)
    await service.scheduler.step()
    assert (await service.status(enqueued.id)).status == "queued"
    assert await service.app.state.transport.depth() == 0
    await age(service, store.Job.due_at, 61)
    await age(service, store.Job.publish_at, 61)
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 1
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).status == "succeeded"


async def test_what_redis_forgot_is_published_again(service: Service) -> None:
    await service.enqueue(samples.note, text="survivor")
    await service.app.state.jobs.finish()
    assert await service.app.state.transport.depth() == 1
    await service.app.state.redis.flushdb()
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 0  # not yet: somebody may be at it
    await age(service, store.Job.publish_at, service.settings.jobs_republish_after)
    await service.scheduler.step()
    assert await service.app.state.transport.depth() == 1


@pytest.mark.parametrize(("waited", "later"), [(0, 10), (40, 40), (5000, 100)])
async def test_what_waits_for_long_is_published_more_rarely(
    service: Service, waited: float, later: float
) -> None:
    await service.enqueue(samples.note, text="patient")
    await age(service, store.Job.due_at, waited)
    await age(service, store.Job.publish_at, PUBLISH_GRACE)
    async with service.app.state.db.transaction() as session:
        assert await store.claim_unpublished(session, 1, again=10)
        pause = await session.scalar(select(store.Job.publish_at - func.now()))
    assert pause
    assert pause.total_seconds() == pytest.approx(later, abs=5)


async def test_a_flood_reaches_the_queue_in_small_portions(service: Service) -> None:
    async with service.app.state.db.transaction() as session:
        queue = service.app.state.jobs.queue_for(session)
        for number in range(30):
            await queue.enqueue(samples.note, text=str(number), delay=0.001)
    await asyncio.sleep(0.01)
    settings = service.settings.model_copy(update={"jobs_queue_limit": 10})
    scheduler = Scheduler(service.app, settings)
    for _ in range(3):
        await scheduler.step()
    assert await service.app.state.transport.depth() == 10 < BATCH


async def test_requests_do_not_flood_the_queue_either(service: Service) -> None:
    transport = service.app.state.transport
    publisher = Publisher(transport, 10)
    for _ in range(5):
        publisher.publish([uuid4() for _ in range(4)])
        await publisher.finish()
    assert await transport.depth() == 10


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> JobDefinition:
    """A job that the clock starts each night, for this test alone."""
    from app.platform.jobs import registry

    monkeypatch.setattr(registry, "_by_name", dict(registry._by_name))

    @job(name="tests.nightly", cron=f"0 {NIGHT.hour} * * *")
    async def nightly(context: Any) -> None: ...

    return get_definition("tests.nightly")


# The next one that is due is in half a day, and the last one was, whenever this is run.
NIGHT = (datetime.now(UTC) + timedelta(hours=12)).replace(minute=0, second=0, microsecond=0)


async def test_two_schedulers_start_a_scheduled_job_once(
    service: Service, scheduled: JobDefinition
) -> None:
    others = [Scheduler(service.app, service.settings) for _ in range(4)]
    for moment in (NIGHT, NIGHT + timedelta(seconds=1), NIGHT + timedelta(hours=5)):
        await asyncio.gather(*(scheduler.tick(moment) for scheduler in others))
    assert [status.name for status in await service.all()] == ["tests.nightly"]
    await Scheduler(service.app, service.settings).tick(NIGHT + timedelta(days=1, minutes=1))
    assert len(await service.all()) == 2


async def test_a_new_schedule_does_not_start_with_a_tick_of_the_past(
    service: Service, scheduled: JobDefinition
) -> None:
    await service.scheduler.tick(datetime.now(UTC))
    assert await service.all() == []


async def test_after_a_pause_a_scheduled_job_is_started_once(
    service: Service, scheduled: JobDefinition
) -> None:
    await service.scheduler.tick(datetime.now(UTC))
    await Scheduler(service.app, service.settings).tick(NIGHT + timedelta(days=9))
    assert len(await service.all()) == 1


@pytest.mark.parametrize("cron", ["every night", "61 * * * *", "0 0 30 2 *"])
def test_a_schedule_that_can_not_work_is_refused_at_the_start(cron: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"tests.platform.jobs.samples.note: .* is no schedule"):
        schedules.check([replace(get_definition("tests.platform.jobs.samples.note"), cron=cron)])


def test_a_scheduled_job_has_no_arguments() -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="the clock starts it, without arguments"):
        schedules.check(
            [replace(get_definition("tests.platform.jobs.samples.note"), cron="* * * * *")]
        )


async def test_results_expire_and_dead_jobs_later(service: Service) -> None:
    good = await service.enqueue(samples.note, text="old")
    bad = await service.enqueue(samples.fail)
    for status in (good, bad):
        await run_until_finished(service, status.id)
    fresh = await service.enqueue(samples.note, text="new")

    await service.scheduler.forget()
    assert len(await service.all()) == 3
    await age(service, store.Job.finished_at, 8 * 86_400)
    await service.scheduler.forget()
    assert [status.id for status in await service.all()] == [bad.id, fresh.id]
    await age(service, store.Job.finished_at, 31 * 86_400)
    await service.scheduler.forget()
    assert [status.id for status in await service.all()] == [fresh.id]


async def test_metrics_count_what_waits_and_for_how_long(service: Service) -> None:
    await service.enqueue(samples.note, text="a")
    await service.enqueue(samples.note, text="b", delay=60)
    dead = await service.enqueue(samples.leave)
    await service.runner.run(dead.id)
    await age(service, store.Job.due_at, 30)
    async with client_for(service.app) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'jobs{status="queued"} 2.0' in lines
    assert "jobs_due 1.0" in lines
    assert 'jobs{status="running"} 0.0' in lines
    assert 'jobs{status="dead"} 1.0' in lines
    assert 'job_attempts_total{job="tests.platform.jobs.samples.leave",outcome="dead"} 1.0' in lines
    (oldest,) = (line for line in lines if line.startswith("jobs_oldest_due_seconds "))
    assert 30 <= float(oldest.split()[1]) < 90
