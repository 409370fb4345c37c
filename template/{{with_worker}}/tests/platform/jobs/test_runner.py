"""Running jobs: attempts, retries, leases and outcomes, on a real database."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update

from app.platform.jobs import changes, outcomes, runner, store
from app.platform.jobs.attempt import backoff, error_summary
from app.platform.jobs.outcomes import RELEASE_OVERLAP, Outcomes
from app.platform.jobs.status import JobState, Progress
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service, SingleRunner, claim


async def test_a_job_runs_and_its_result_is_stored(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="hello")
    assert enqueued.status == "queued"
    await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.result, status.attempts) == ("succeeded", "HELLO", 1)


async def test_duplicate_messages_run_the_job_once(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="once")
    await asyncio.gather(*(service.runner.run(enqueued.id) for _ in range(5)))
    await service.runner.run(enqueued.id)
    assert await service.app.state.redis.lrange("notes", 0, -1) == ["once"]


async def test_the_log_line_of_a_job_has_the_fields_that_it_added(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [await service.enqueue(samples.adds_log_fields)]
    jobs.append(await service.enqueue(samples.note, text="none"))
    capfd.readouterr()
    for enqueued in jobs:
        await service.runner.run(enqueued.id)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    ended = [line.get("orders") for line in lines if line["event"] == "job succeeded"]
    assert ended == [7, None]


async def test_a_message_for_an_unknown_job_is_ignored(service: Service) -> None:
    await service.runner.run(uuid4())


async def test_an_outcome_is_abandoned_when_postgres_stays_away(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    async def refuse(*_: Any) -> bool:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError

    enqueued = await service.enqueue(samples.note, text="hello")
    (claimed,) = await claim(service.runner.database, enqueued.id, lease=60)
    monkeypatch.setattr(outcomes, "RECORD_RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(store, "release", refuse)
    recorder = Outcomes(service.runner.database, service.app.state.settings)
    assert await recorder.release(claimed) == "abandoned"
    assert attempts == 3


async def test_a_failed_job_is_retried_until_it_succeeds(service: Service) -> None:
    enqueued = await service.enqueue(samples.fail_then_succeed, times=2)
    await service.runner.run(enqueued.id)
    failed = await service.status(enqueued.id)
    assert (failed.status, failed.error) == ("queued", "RuntimeError: attempt 1")
    await service.run_until_finished(enqueued.id)
    assert (await service.status(enqueued.id)).result == 3


async def test_progress_is_in_the_status_until_the_next_attempt(service: Service) -> None:
    seen: list[tuple[JobState, Progress | None]] = []

    async def observer(job_id: UUID, state: JobState, progress: Progress | None) -> None:
        # What observers hear has been stored.
        status = await service.status(job_id)
        assert (status.id, status.status) == (enqueued.id, state)
        assert progress in (status.progress, None)
        seen.append((state, progress))

    changes.observe(service.app, observer)
    enqueued = await service.enqueue(samples.reports_progress)
    await service.runner.run(enqueued.id)
    done = Progress(done=100, total=100, message="counting")
    assert (await service.status(enqueued.id)).progress == done
    await service.run_until_finished(enqueued.id)
    assert (await service.status(enqueued.id)).progress is None
    first = Progress(done=0, total=100, message="counting")
    assert seen[:2] == [("running", None), ("running", first)]
    last = [("running", done), ("queued", None), ("running", None), ("succeeded", None)]
    assert seen[-4:] == last
    assert len(seen) < 20, "most reports within a second are not stored"


def test_backoff_is_exponential_with_full_jitter() -> None:
    for failures, maximum in ((1, 5), (2, 10), (4, 40), (12, 600)):
        delays = [backoff(failures, 5, 600) for _ in range(500)]
        assert 0 <= min(delays) < maximum * 0.1
        assert maximum * 0.9 < max(delays) <= maximum
    assert backoff(2000, 5.0, 600) <= 600


async def test_an_attempt_times_out(service: Service) -> None:
    enqueued = await service.enqueue(samples.slow_job)
    async with asyncio.timeout(10):
        await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.error) == (
        "dead",
        "TimeoutError: The job exceeded its timeout of 0.2 s.",
    )


async def test_a_job_cannot_stop_its_worker(service: Service) -> None:
    enqueued = await service.enqueue(samples.exits)
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).error == "RuntimeError: The job raised SystemExit."


async def test_a_job_enqueues_another_in_its_transaction(service: Service) -> None:
    enqueued = await service.enqueue(samples.enqueues_another)
    await service.runner.run(enqueued.id)
    first, second = await service.statuses()
    assert (first.result, second.name) == (str(second.id), "tests.platform.jobs.samples.note")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "newer.job"}, "This release has no job named newer.job."),
        (
            {"arguments": {"text": "x", "language": "en"}},
            "tests.platform.jobs.samples.note of this release does not take",
        ),
    ],
)
async def test_a_job_of_another_release_costs_no_attempt_during_a_deployment(
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
        await service.backdate(store.Job.due_at, 60)
    await service.backdate(store.Job.created_at, RELEASE_OVERLAP.total_seconds())
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).attempts == 1


async def test_a_result_that_postgres_cannot_store_fails_the_job(service: Service) -> None:
    enqueued = await service.enqueue(samples.unstorable_result)
    async with asyncio.timeout(10):
        await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    error = "UnstorableResult: The result cannot be stored as JSON in Postgres."
    assert (status.status, status.error) == ("dead", error)


async def test_a_result_that_postgres_cannot_store_fails_no_other_job(service: Service) -> None:
    jobs = [await service.enqueue(samples.unstorable_result)]
    jobs += [await service.enqueue(samples.note, text=str(number)) for number in range(5)]
    await asyncio.gather(*(service.runner.run(job.id) for job in jobs))
    bad, *good = [await service.status(job.id) for job in jobs]
    assert (bad.status, bad.error) == (
        "dead",
        "UnstorableResult: The result cannot be stored as JSON in Postgres.",
    )
    assert [(job.status, job.result) for job in good] == [
        ("succeeded", str(number)) for number in range(5)
    ]


async def test_an_attempt_that_lost_its_lease_is_not_recorded_with_its_successor(
    service: Service,
) -> None:
    database = service.app.state.db
    enqueued = await service.enqueue(samples.note, text="twice")
    (first,) = await claim(database, enqueued.id, 60)
    await service.backdate(store.Job.due_at, 3600)
    (second,) = await claim(database, enqueued.id, 60)
    assert await store.succeed(database, [(first, '"a"'), (second, '"b"')]) == [False, True]
    assert (await service.status(enqueued.id)).result == "b"


def test_an_error_with_invalid_text_is_summarized() -> None:
    assert error_summary(OSError("caf\udce9\0")) == "OSError: caf?"
    assert error_summary(OSError("one\n  two\u2028")) == "OSError: one two"


async def test_a_long_job_keeps_its_lease(service: Service) -> None:
    enqueued = await service.enqueue(samples.wait_for_gate, gate="open")
    first = asyncio.create_task(service.runner.run(enqueued.id))
    await service.wait_for_start("open")
    await asyncio.sleep(service.settings.jobs_lease * 1.5)
    await service.runner.run(enqueued.id)  # as another worker would: the job is claimed
    await service.app.state.redis.set("open", 1)
    await first
    assert (await service.status(enqueued.id)).attempts == 1


async def test_a_worker_that_lost_its_lease_stops_and_records_nothing(service: Service) -> None:
    enqueued = await service.enqueue(samples.wait_for_gate, gate="open")
    first = asyncio.create_task(service.runner.run(enqueued.id))
    await service.wait_for_start("open")
    await service.backdate(store.Job.due_at, 3600)
    second = asyncio.create_task(service.runner.run(enqueued.id))
    await service.wait_for_start("open")
    async with asyncio.timeout(10):
        await first  # cancelled: the gate is closed
    await service.app.state.redis.set("open", 1)
    await second
    status = await service.status(enqueued.id)
    assert (status.status, status.result, status.attempts) == ("succeeded", 2, 2)


async def test_a_job_that_ignores_a_cancellation_ends_before_it_is_released(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CANCEL_INTERVAL", 0.5)
    stops_at_once = service.settings.model_copy(update={"worker_shutdown_timeout": 0.0})
    enqueued = await service.enqueue(samples.ignores_cancel)
    async with SingleRunner(service.app, stops_at_once) as worker:
        running = asyncio.create_task(worker.run(enqueued.id))
        async with asyncio.timeout(10):
            await samples.STARTED.wait()
        worker.stop()
        await running
    assert samples.FINISHED.is_set()
    status = await service.status(enqueued.id)
    assert (status.status, status.attempts) == ("queued", 0)


async def test_a_job_that_kills_its_workers_is_dead(service: Service) -> None:
    enqueued = await service.enqueue(samples.note, text="deadly")
    async with service.app.state.db.transaction() as session:
        claimed = {"status": "running", "attempts": 1, "started_at": func.now()}
        await session.execute(update(store.Job).values(claimed))
    await service.runner.run(enqueued.id)
    status = await service.status(enqueued.id)
    assert (status.status, status.error) == (
        "dead",
        "RuntimeError: The worker died in every attempt.",
    )
    assert await service.app.state.redis.lrange("notes", 0, -1) == []
