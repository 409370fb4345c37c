"""Killed workers and schedulers, poison jobs, wrong clocks, two releases, and a flood of jobs."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.platform.jobs import JobStatus, store
from app.platform.jobs.publishing import publish_new
from app.platform.jobs.queue import Publisher
from tests.fire import _deaths, _flood, _poison
from tests.fire.conftest import FULL, Note
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Process, Start
from tests.system.jobs.conftest import service as service
from tests.system.jobs.conftest import start as start

HOUR = 3600


@asynccontextmanager
async def supervised(start: Start, *commands: str, **options: str) -> AsyncIterator[list[Process]]:
    """Run processes and restart those that exit, as a platform does."""
    processes = [start(command, **options) for command in commands]

    async def supervise() -> None:
        while True:
            for index, process in enumerate(processes):
                if not process.is_running():
                    processes[index] = start(commands[index], **options)
            await asyncio.sleep(0.05)

    supervisor = asyncio.create_task(supervise())
    try:
        yield processes
    finally:
        supervisor.cancel()


async def execute(service: Service, *statements: str) -> None:
    async with service.app.state.db.transaction() as session:
        for statement in statements:
            await session.execute(text(statement))


async def select(service: Service, statement: str) -> Any:
    async with service.app.state.db.transaction() as session:
        return (await session.execute(text(statement))).all()


async def wait_for(condition: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait until ``condition`` returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < end, "timed out"
        await asyncio.sleep(0.1)
    return result


async def enqueue_as(service: Service, name: str, **arguments: Any) -> JobStatus:
    """Enqueue a job of another release."""
    new = store.NewJob(name, arguments, None, None, "", {})
    async with service.app.state.db.transaction() as session:
        status, _ = await store.add(session, new)
    return status


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


async def enqueue_deadly(service: Service, folder: Path, victim: str, stage: str) -> UUID:
    """Enqueue a job that kills its worker at a stage."""
    async with service.app.state.db.transaction() as session:
        status: JobStatus = await service.app.state.jobs.queue_for(session).enqueue(_deaths.work)
        _deaths.plan(folder, victim, stage, str(status.id))
    return status.id


async def test_jobs_survive_workers_killed_at_any_stage(
    service: Service, start: Start, deaths: Path, note: Note
) -> None:
    await execute(service, *_deaths.TABLES)
    kills = [(victim, stage) for victim in _deaths.VICTIMS for stage in _deaths.STAGES]
    kills = kills * 5 if FULL else kills[:-4]
    options = {"module": "tests.fire._deaths", "DEATHS": str(deaths)}
    jobs = {await enqueue_deadly(service, deaths, *kill): kill for kill in kills}
    async with supervised(start, "worker", "worker", "scheduler", **options):
        unfinished = "SELECT 1 FROM jobs WHERE status != 'succeeded'"

        async def finished() -> bool:
            return not await select(service, unfinished)

        await wait_for(finished, TIMEOUT + 10 * len(jobs))
    assert _deaths.count(deaths) == len(jobs), "not every worker was killed"
    effects = {row.job for row in await select(service, "SELECT job FROM effects")}
    works = {
        r.job: r.n for r in await select(service, "SELECT job, count(*) n FROM works GROUP BY 1")
    }
    assert effects == set(jobs)
    assert {(jobs[id_], n) for id_, n in works.items()} == {
        (kill, _deaths.STAGES[kill[1]]) for kill in kills
    }
    note(kills=len(jobs), stages=len(_deaths.STAGES), lost=0, effects_twice=0)


LOG_TICKS = (
    "CREATE TABLE ticks (at timestamptz, seen timestamptz DEFAULT clock_timestamp())",
    "CREATE FUNCTION log_tick() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN INSERT INTO ticks VALUES (NEW.ticked_at); RETURN NEW; END$$",
    "CREATE TRIGGER log_tick AFTER UPDATE ON job_schedules "
    "FOR EACH ROW EXECUTE FUNCTION log_tick()",
)


async def test_killed_schedulers_neither_lose_nor_repeat_ticks(
    service: Service, start: Start, deaths: Path, note: Note
) -> None:
    await execute(service, *LOG_TICKS)
    ticks = 60 if FULL else 5
    options = {"module": "tests.fire._deaths", "DEATHS": str(deaths)}
    async with supervised(start, "scheduler", "scheduler", "worker", **options):
        for stage in _deaths.SCHEDULER_STAGES:
            _deaths.plan(deaths, "one process", stage, stage)
            await service.enqueue(_deaths.no_op, delay=0.1)
            await wait_for(partial(asyncio.to_thread, (deaths / f"{stage}.dead").exists))

        async def enough() -> bool:
            return len(await select(service, "SELECT 1 FROM ticks")) >= ticks

        await wait_for(enough, TIMEOUT + ticks)
    at = [row.at for row in await select(service, "SELECT at FROM ticks")]
    started = await select(service, "SELECT 1 FROM jobs WHERE name LIKE '%.tick'")
    assert len(set(at)) == len(at) == len(started)
    note(schedulers=2, killed=len(_deaths.SCHEDULER_STAGES), ticks=len(at), doubled=0)


@pytest.mark.parametrize("offset", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_clock_that_is_an_hour_off_has_no_effect(
    service: Service, start: Start, offset: int, note: Note
) -> None:
    await execute(service, *LOG_TICKS)
    options = {
        "module": "tests.fire._clock",
        "CLOCK_OFFSET": str(offset),
        "WORKER_CONCURRENCY": "2",
    }
    for command in ("worker", "scheduler"):
        start(command, **options)
    immediate = await service.enqueue(samples.note, text="now")
    retried = await service.enqueue(samples.fail_then_succeed, times=1)
    delayed = await service.enqueue(samples.note, text="later", delay=2)
    for job in (immediate, retried, delayed):
        await service.wait_for_status(job.id, "succeeded")
    first = (await service.status(delayed.id)).started_at
    assert first
    assert (first - delayed.created_at).total_seconds() >= 2
    long = await service.enqueue(samples.wait_for_gate, gate="open")
    await service.wait_for_start("open")
    await asyncio.sleep(2 * service.settings.jobs_lease)
    await service.app.state.redis.set("open", 1)
    assert (await service.wait_for_status(long.id, "succeeded")).result == 1
    ticks = await wait_for(
        lambda: select(service, "SELECT extract(epoch FROM seen - at) AS late FROM ticks")
    )
    assert all(abs(row.late) < HOUR / 2 for row in ticks)
    note(clock_offset_s=offset, ticks=len(ticks))


async def test_poison_jobs_end_dead_and_harm_no_other_job(
    service: Service, start: Start, note: Note
) -> None:
    poisons = {
        _poison.kill: "RuntimeError: The worker died in every attempt.",
        _poison.return_nul: "cannot be stored",
        _poison.return_surrogate: "cannot be stored",
        _poison.return_infinity: "cannot be stored",
        _poison.return_no_json: "PydanticSerializationError",
        _poison.raise_surrogate: "OSError: caf",
        _poison.nest: "RecursionError",
    }
    async with supervised(start, "worker", "scheduler", module="tests.fire._poison"):
        bad = {(await service.enqueue(job)).id: error for job, error in poisons.items()}
        good = [await service.enqueue(_poison.good) for _ in range(20)]
        for job_id, error in bad.items():
            dead = await service.wait_for_status(job_id, "dead")
            assert error in (dead.error or "")
            assert dead.attempts == 2 + (error.endswith("in every attempt."))
        for job in good:
            assert (await service.wait_for_status(job.id, "succeeded")).attempts <= 2
    note(poisons=len(poisons), good=len(good), lost=0)


async def test_two_releases_at_once_lose_no_job(service: Service, start: Start, note: Note) -> None:
    old = start("worker", module="tests.fire._old_release")
    start("scheduler", module="tests.fire._old_release")
    times = 30 if FULL else 5
    from_new: dict[UUID, str] = {}
    for number in range(times):
        ship = await enqueue_as(service, "orders.ship", order=number)
        bill = await enqueue_as(service, "orders.bill", order=number, currency="USD")
        label = await enqueue_as(service, "orders.label", lines=["a", "b"])
        from_new |= {
            ship.id: f"new ship {number}",
            bill.id: f"new bill {number} USD",
            label.id: "new label a b",
        }

    async def postponed() -> bool:
        lines = [line for line in old.log_lines() if line.get("event") == "job postponed"]
        return len(lines) > 2 * len(from_new)

    await wait_for(postponed, 3 * TIMEOUT)  # more often than any job may fail
    start("worker", module="tests.fire._new_release")
    start("scheduler", module="tests.fire._new_release")
    from_old: dict[UUID, str] = {}
    for number in range(times):
        label = await enqueue_as(service, "orders.label", text=str(number))
        from_old[label.id] = f"old label {number}"
        bill = await enqueue_as(service, "orders.bill", order=number)
        from_old[bill.id] = ""  # either release can run it
    waiting = "SELECT 1 FROM jobs WHERE name != 'orders.sweep' AND status != 'succeeded'"

    async def finished() -> bool:
        return not await select(service, waiting)

    await wait_for(finished, 5 * TIMEOUT)
    for job_id, result in (from_new | from_old).items():
        status = await service.status(job_id)
        assert status.attempts == 1
        assert result in (status.result, "")
    query = "SELECT 1 FROM jobs WHERE name = 'orders.sweep' AND status = 'succeeded'"
    await wait_for(lambda: select(service, query))
    assert await select(service, "SELECT 1 FROM jobs WHERE status = 'dead'") == []
    note(jobs=len(from_new | from_old), postponed_by_the_other_release=2 * len(from_new), lost=0)


def memory(group: int) -> float:
    """Resident memory of a process group in MiB."""
    ps = subprocess.check_output(["ps", "-A", "-o", "pgid=,rss="], text=True)
    rows = (line.split() for line in ps.splitlines())
    return sum(int(rss) for pgid, rss in rows if int(pgid) == group) / 1024


async def test_a_flood_of_jobs_drains_in_bounded_memory(
    service: Service, start: Start, note: Note
) -> None:
    number, limit = (100_000, 1000) if FULL else (1000, 50)
    transport = service.app.state.transport
    settings = service.settings.model_copy(update={"jobs_queue_limit": limit})
    publisher = Publisher(partial(publish_new, transport, settings))
    # A tenth of the jobs is enqueued by the API's own code, which publishes after each commit.
    for _ in range(number // 1000):
        await asyncio.gather(*(enqueue_batch(service, publisher) for _ in range(10)))
    await publisher.flush()
    depth = await transport.depth()
    assert depth > 0
    assert depth <= limit or not _deaths.HAS_BROKER
    await execute(service, INSERT.format(number - number // 10))
    environment = {"JOBS_QUEUE_LIMIT": str(limit), "JOBS_LEASE": "60", "WORKER_CONCURRENCY": ""}
    began = time.monotonic()
    worker = start("worker", module="tests.fire._flood", **environment)
    scheduler = start("scheduler", module="tests.fire._flood", **environment)
    seen: list[tuple[int, int, float, float]] = []
    done = 0
    while done < number:
        await asyncio.sleep(number / 10_000)
        (row,) = await select(service, "SELECT count(*) n FROM jobs WHERE status = 'succeeded'")
        done = row.n
        depth = await transport.depth()
        seen.append((done, depth, memory(worker.group), memory(scheduler.group)))
        assert time.monotonic() < began + 120 + number / 10, f"only {seen[-1]}"
    seconds = time.monotonic() - began
    (row,) = await select(service, "SELECT max(attempts) most FROM jobs")
    assert row.most == 1
    assert max(depth for _, depth, _, _ in seen) <= limit or not _deaths.HAS_BROKER
    warm = [sample for sample in seen if sample[0] > number / 5]
    for process in (2, 3):
        assert warm[-1][process] < 1.25 * warm[0][process] + 10
    note(
        jobs=number,
        jobs_per_s=round(number / seconds),
        deepest_queue=max(depth for _, depth, _, _ in seen),
        worker_mib=[round(sample[2]) for sample in (warm[0], warm[len(warm) // 2], warm[-1])],
        scheduler_mib=[round(sample[3]) for sample in (warm[0], warm[len(warm) // 2], warm[-1])],
        lost=0,
    )


INSERT = """
INSERT INTO jobs (id, name, arguments, status, attempts, due_at, publish_at, created_at,
                  request_id, carrier)
SELECT gen_random_uuid(), 'tests.fire._flood.drop', jsonb_build_object('number', n), 'queued', 0,
       now(), now(), now(), '', '{{}}' FROM generate_series(1, {}) n
"""


async def enqueue_batch(service: Service, publisher: Publisher) -> None:
    async with service.app.state.db.transaction() as session:
        for count in range(10):
            await publisher.queue_for(session).enqueue(_flood.drop, number=count)
