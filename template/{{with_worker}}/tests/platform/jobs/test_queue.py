"""Enqueueing, dead jobs and the backlog's metrics, on a real database."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Select, text

from app.platform.base import context
from app.platform.base.errors import Conflict
from app.platform.data.database import Database
from app.platform.jobs import store
from app.platform.jobs.commands import list_jobs, replay_dead
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service


async def test_a_rolled_back_transaction_enqueues_no_job(service: Service) -> None:
    async def fail_after_enqueuing() -> None:
        async with service.app.state.db.transaction() as session:
            await service.app.state.jobs.queue_for(session).enqueue(samples.note, text="never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_enqueuing()
    await service.app.state.jobs.flush()
    assert await service.statuses() == []
    assert await service.app.state.transport.depth() == 0


async def test_a_rolled_back_savepoint_keeps_no_worker_from_later_jobs(service: Service) -> None:
    async with service.app.state.db.transaction() as session:
        queue = service.app.state.jobs.queue_for(session)
        savepoint = await session.begin_nested()
        await queue.enqueue(samples.note, text="never")
        await savepoint.rollback()
        await queue.enqueue(samples.note, text="later")
    await service.app.state.jobs.flush()
    assert len(await service.statuses()) == 1
    assert await service.app.state.transport.depth() == 1


async def test_a_unique_job_is_enqueued_once_until_it_finishes(service: Service) -> None:
    first = await service.enqueue(samples.note, text="a", unique="key")
    second = await service.enqueue(samples.note, text="b", unique="key")
    other = await service.enqueue(samples.note, text="c", unique="another key")
    assert second.id == first.id != other.id
    await service.runner.run(first.id)
    third = await service.enqueue(samples.note, text="d", unique="key")
    assert third.id != first.id


async def test_concurrent_requests_enqueue_one_unique_job(service: Service) -> None:
    same = (service.enqueue(samples.note, text="x", unique="key") for _ in range(20))
    assert len({status.id for status in await asyncio.gather(*same)}) == 1


async def test_dead_jobs_are_listed_and_replayed(service: Service) -> None:
    enqueued = await service.enqueue(samples.always_fails, unique="one")
    await service.run_until_finished(enqueued.id)
    database: Database = service.app.state.db
    (dead,) = await list_jobs(database)
    assert (dead.id, dead.attempts) == (enqueued.id, 2)
    assert dead.error == "RuntimeError: password=hunter2 is wrong"

    assert await replay_dead(database, uuid4()) == 0
    assert await replay_dead(database, enqueued.id) == 1
    replayed = await service.status(enqueued.id)
    assert (replayed.status, replayed.attempts) == ("queued", 0)
    assert await replay_dead(database) == 0


async def test_callers_do_not_see_the_exceptions_message(service: Service) -> None:
    enqueued = await service.enqueue(samples.always_fails)
    await service.run_until_finished(enqueued.id)
    async with running_app(service.settings) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "dora@example.com"))
        status = (await client.get(f"/api/v1/jobs/{enqueued.id}")).json()
    assert (status["status"], status["error"]) == ("dead", "The job failed after 2 attempts.")
    assert "hunter2" not in str(status)


async def test_whoever_enqueues_a_unique_job_again_does_not_see_the_exceptions_message(
    service: Service,
) -> None:
    first = await service.enqueue(samples.always_fails, unique="key")
    await service.runner.run(first.id)
    assert "hunter2" in str((await service.status(first.id)).error)
    second = await service.enqueue(samples.always_fails, unique="key")
    assert (second.id, second.attempts, second.error) == (first.id, 1, None)
    assert "hunter2" not in second.model_dump_json()


async def test_another_owners_unique_job_is_a_conflict_and_not_handed_out(
    service: Service,
) -> None:
    with context.bind_request_context(user_id="carol"):
        own = await service.enqueue(samples.note, text="a", unique="key")
        assert (await service.enqueue(samples.note, text="a", unique="key")).id == own.id
    with context.bind_request_context(user_id="mallory"), pytest.raises(Conflict) as refusal:
        await service.enqueue(samples.note, text="a", unique="key")
    assert str(own.id) not in refusal.value.detail


async def test_a_unique_job_without_an_owner_is_everybodys(service: Service) -> None:
    shared = await service.enqueue(samples.note, text="a", unique="key")
    with context.bind_request_context(user_id="carol"):
        assert (await service.enqueue(samples.note, text="a", unique="key")).id == shared.id


@pytest.mark.parametrize("select", [store.select_backlog(), store.select_newest("dead", 50)])
async def test_what_is_asked_of_dead_jobs_reads_no_succeeded_ones(
    service: Service, select: Select[Any]
) -> None:
    """A million jobs a day are seven million rows, which each scrape would read."""
    query = select.compile(service.app.state.db.engine, compile_kwargs={"literal_binds": True})
    async with service.app.state.db.engine.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = (await connection.execute(text(f"EXPLAIN {query}"))).scalars().all()
    assert "ix_jobs_dead" in "\n".join(plan)


async def test_metrics_report_the_backlog_and_its_age(service: Service) -> None:
    await service.enqueue(samples.note, text="a")
    await service.enqueue(samples.note, text="b", delay=60)
    dead = await service.enqueue(samples.exits)
    await service.runner.run(dead.id)
    await service.backdate(store.Job.due_at, 30)
    async with client_for(service.app) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'jobs{status="queued"} 2.0' in lines
    assert "jobs_due 1.0" in lines
    assert 'jobs{status="running"} 0.0' in lines
    assert 'jobs{status="dead"} 1.0' in lines
    assert 'job_attempts_total{job="tests.platform.jobs.samples.exits",outcome="dead"} 1.0' in lines
    (oldest,) = (line for line in lines if line.startswith("jobs_oldest_due_seconds "))
    assert 30 <= float(oldest.split()[1]) < 90
