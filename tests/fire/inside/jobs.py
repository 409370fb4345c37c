"""Workers and schedulers that die, meet poison, disagree about the time, or are of two releases."""

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
from app.platform.jobs.queue import Publisher
from tests.fire import _deaths, _flood, _poison
from tests.fire.conftest import FULL, Note
from tests.platform.jobs import conftest, samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Process, Start

service, start = conftest.service, conftest.start
QUICK = {"JOBS_REPUBLISH_AFTER": "1"}
HOUR = 3600


@asynccontextmanager
async def kept(start: Start, *commands: str, **how: str) -> AsyncIterator[list[Process]]:
    """Run processes, and each again when it dies, as every platform does."""
    processes = [start(command, **how) for command in commands]

    async def watch() -> None:
        while True:
            for place, process in enumerate(processes):
                if not process.runs():
                    processes[place] = start(commands[place], **how)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield processes
    finally:
        watching.cancel()


async def execute(service: Service, *statements: str) -> None:
    async with service.app.state.db.transaction() as session:
        for statement in statements:
            await session.execute(text(statement))


async def select(service: Service, statement: str) -> Any:
    async with service.app.state.db.transaction() as session:
        return (await session.execute(text(statement))).all()


async def until(holds: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait until ``holds`` says so, and return what it says."""
    end = time.monotonic() + seconds
    while not (result := await holds()):
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.1)
    return result


async def enqueue_as(service: Service, name: str, **arguments: Any) -> JobStatus:
    """Enqueue a job as another release of the API would."""
    new = store.NewJob(name, arguments, None, None, "", {})
    async with service.app.state.db.transaction() as session:
        status, _ = await store.add(session, new)
    return status


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    folder = tmp_path / "deaths"
    folder.mkdir()
    return folder


async def doomed(service: Service, folder: Path, who: str, stage: str) -> UUID:
    """Enqueue a job whose worker will be killed at a stage."""
    async with service.app.state.db.transaction() as session:
        status: JobStatus = await service.app.state.jobs.queue_for(session).enqueue(_deaths.work)
        _deaths.doom(folder, who, stage, str(status.id))
    return status.id


async def test_a_worker_may_be_killed_at_any_stage_of_a_job(
    service: Service, start: Start, deaths: Path, note: Note
) -> None:
    await execute(service, *_deaths.TABLES)
    dooms = [(who, stage) for who in _deaths.WHO for stage in _deaths.STAGES]
    dooms = dooms * 5 if FULL else dooms[:-4]
    how = {"module": "tests.fire._deaths", "DEATHS": str(deaths)}
    jobs = {await doomed(service, deaths, *doom): doom for doom in dooms}
    async with kept(start, "worker", "worker", "scheduler", **how, **QUICK):
        undone = "SELECT 1 FROM jobs WHERE status != 'succeeded'"

        async def done() -> bool:
            return not await select(service, undone)

        await until(done, TIMEOUT + 10 * len(jobs))
    assert _deaths.dead(deaths) == len(jobs), "all of them were killed"
    effects = {row.job for row in await select(service, "SELECT job FROM effects")}
    works = {
        r.job: r.n for r in await select(service, "SELECT job, count(*) n FROM works GROUP BY 1")
    }
    assert effects == set(jobs)
    assert {(jobs[id_], n) for id_, n in works.items()} == {
        (doom, _deaths.STAGES[doom[1]]) for doom in dooms
    }
    note(kills=len(jobs), stages=len(_deaths.STAGES), lost=0, effects_twice=0)


LOG_TICKS = (
    "CREATE TABLE ticks (at timestamptz, seen timestamptz DEFAULT clock_timestamp())",
    "CREATE FUNCTION log_tick() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN INSERT INTO ticks VALUES (NEW.ticked_at); RETURN NEW; END$$",
    "CREATE TRIGGER log_tick AFTER UPDATE ON job_schedules "
    "FOR EACH ROW EXECUTE FUNCTION log_tick()",
)


async def test_of_two_schedulers_each_starts_what_the_other_did_not_though_they_are_killed(
    service: Service, start: Start, deaths: Path, note: Note
) -> None:
    await execute(service, *LOG_TICKS)
    ticks = 60 if FULL else 5
    how = {"module": "tests.fire._deaths", "DEATHS": str(deaths)}
    async with kept(start, "scheduler", "scheduler", "worker", **how, **QUICK):
        for stage in _deaths.SCHEDULER_STAGES:
            _deaths.doom(deaths, "one process", stage, stage)
            await service.enqueue(_deaths.errand, delay=0.1)
            await until(partial(asyncio.to_thread, (deaths / f"{stage}.dead").exists))

        async def enough() -> bool:
            return len(await select(service, "SELECT 1 FROM ticks")) >= ticks

        await until(enough, TIMEOUT + ticks)
    at = [row.at for row in await select(service, "SELECT at FROM ticks")]
    started = await select(service, "SELECT 1 FROM jobs WHERE name LIKE '%.tick'")
    assert len(set(at)) == len(at) == len(started)
    note(schedulers=2, killed=len(_deaths.SCHEDULER_STAGES), ticks=len(at), doubled=0)


@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_an_hour_off_a_clock_changes_nothing(
    service: Service, start: Start, wrong_by: int, note: Note
) -> None:
    await execute(service, *LOG_TICKS)
    how = {"module": "tests.fire._clock", "WRONG_BY": str(wrong_by), "WORKER_CONCURRENCY": "2"}
    for command in ("worker", "scheduler"):
        start(command, **how)
    at_once = await service.enqueue(samples.note, text="now")
    again = await service.enqueue(samples.fail_then_succeed, times=1)
    later = await service.enqueue(samples.note, text="later", delay=2)
    for job in (at_once, again, later):
        await service.wait_for_status(job.id, "succeeded")
    first = (await service.status(later.id)).started_at
    assert first
    assert (first - later.created_at).total_seconds() >= 2
    long = await service.enqueue(samples.wait_for_gate, gate="open")
    await service.wait_for_start("open")
    await asyncio.sleep(2 * service.settings.jobs_lease)
    await service.app.state.redis.set("open", 1)
    assert (await service.wait_for_status(long.id, "succeeded")).result == 1
    ticks = await until(
        lambda: select(service, "SELECT extract(epoch FROM seen - at) AS late FROM ticks")
    )
    assert all(abs(row.late) < HOUR / 2 for row in ticks)
    note(clock_wrong_by_s=wrong_by, ticks=len(ticks))


async def test_poison_ends_as_a_dead_job_and_harms_no_other(
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
    async with kept(start, "worker", "scheduler", module="tests.fire._poison", **QUICK):
        bad = {(await service.enqueue(f)).id: said for f, said in poisons.items()}
        good = [await service.enqueue(_poison.good) for _ in range(20)]
        for job_id, said in bad.items():
            dead = await service.wait_for_status(job_id, "dead")
            assert said in (dead.error or "")
            assert dead.attempts == 2 + (said.endswith("in every attempt."))
        for job in good:
            assert (await service.wait_for_status(job.id, "succeeded")).attempts <= 2
    note(poisons=len(poisons), good=len(good), lost=0)


async def test_two_releases_side_by_side_lose_nothing(
    service: Service, start: Start, note: Note
) -> None:
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

    async def refused() -> bool:
        said = [line for line in old.lines() if line.get("event") == "job postponed"]
        return len(said) > 2 * len(from_new)

    await until(refused, 3 * TIMEOUT)  # more often than any of them may fail
    start("worker", module="tests.fire._new_release")
    start("scheduler", module="tests.fire._new_release")
    from_old: dict[UUID, str] = {}
    for number in range(times):
        label = await enqueue_as(service, "orders.label", text=str(number))
        from_old[label.id] = f"old label {number}"
        bill = await enqueue_as(service, "orders.bill", order=number)
        from_old[bill.id] = ""  # either can do it
    waiting = "SELECT 1 FROM jobs WHERE name != 'orders.sweep' AND status != 'succeeded'"

    async def done() -> bool:
        return not await select(service, waiting)

    await until(done, 5 * TIMEOUT)
    for job_id, result in (from_new | from_old).items():
        status = await service.status(job_id)
        assert status.attempts == 1
        assert result in (status.result, "")
    query = "SELECT 1 FROM jobs WHERE name = 'orders.sweep' AND status = 'succeeded'"
    await until(lambda: select(service, query))
    assert await select(service, "SELECT 1 FROM jobs WHERE status = 'dead'") == []
    note(jobs=len(from_new | from_old), refused_by_the_other_release=2 * len(from_new), lost=0)


def memory(group: int) -> float:
    """MiB that the processes of a group have in memory."""
    ps = subprocess.check_output(["ps", "-A", "-o", "pgid=,rss="], text=True)
    rows = (line.split() for line in ps.splitlines())
    return sum(int(rss) for pgid, rss in rows if int(pgid) == group) / 1024


async def test_a_flood_of_jobs_drains_in_bounded_memory(
    service: Service, start: Start, note: Note
) -> None:
    number, limit = (100_000, 1000) if FULL else (1000, 50)
    transport = service.app.state.transport
    publisher = Publisher(transport, limit)
    # A tenth through the API's own code, which publishes after each commit.
    for _ in range(number // 1000):
        await asyncio.gather(*(enqueue_some(service, publisher) for _ in range(10)))
    await publisher.flush()
    depth = await transport.depth()
    assert 0 < depth <= limit
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
    assert max(depth for _, depth, _, _ in seen) <= limit + 50
    warm = [look for look in seen if look[0] > number / 5]
    for process in (2, 3):
        assert warm[-1][process] < 1.25 * warm[0][process] + 10
    note(
        jobs=number,
        jobs_per_s=round(number / seconds),
        deepest_queue=max(depth for _, depth, _, _ in seen),
        worker_mib=[round(look[2]) for look in (warm[0], warm[len(warm) // 2], warm[-1])],
        scheduler_mib=[round(look[3]) for look in (warm[0], warm[len(warm) // 2], warm[-1])],
        lost=0,
    )


INSERT = """
INSERT INTO jobs (id, name, arguments, status, attempts, due_at, publish_at, created_at,
                  request_id, carrier)
SELECT gen_random_uuid(), 'tests.fire._flood.drop', jsonb_build_object('number', n), 'queued', 0,
       now(), now(), now(), '', '{{}}' FROM generate_series(1, {}) n
"""


async def enqueue_some(service: Service, publisher: Publisher) -> None:
    async with service.app.state.db.transaction() as session:
        for count in range(10):
            await publisher.queue_for(session).enqueue(_flood.drop, number=count)
