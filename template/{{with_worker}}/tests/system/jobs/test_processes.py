"""Real workers and schedulers, and what becomes of the jobs when they die."""

import asyncio
import socket
import tempfile
import urllib.request
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fastapi import APIRouter
from pydantic import SecretStr

from app.platform.jobs import Jobs, JobStatus, add_commands, queue
from app.platform.settings.tracing import TracingSettings
from app.settings import Settings
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.system.jobs.conftest import Start

router = APIRouter()
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "from-the-caller"}


@router.post("/notes", status_code=202)
async def take_note(text: str, jobs: Jobs) -> JobStatus:
    return await jobs.enqueue(samples.note, text=text)


async def run(*command: str) -> tuple[int, str]:
    """Run a command of the service; return its exit code and what it says."""
    cli = click.Group()
    add_commands(cli)
    result = await asyncio.to_thread(CliRunner().invoke, cli, command)
    return result.exit_code, result.output


async def test_request_and_trace_go_on_in_the_job(service: Service, start: Start) -> None:
    worker = start("worker")
    service.app.include_router(router)
    async with client_for(service.app) as client:
        answer = await client.post("/notes?text=hello", headers=SENT)
    job = JobStatus.model_validate(answer.json())
    assert (await service.becomes(job.id, "succeeded")).result == "HELLO"
    worker.terminate()
    assert await worker.ended() == 0
    own, ended = (line for line in worker.lines() if line.get("request_id") == "from-the-caller")
    assert (own["event"], ended["event"]) == ("noted", "job succeeded")
    if TracingSettings.model_fields:
        assert own["trace_id"] == ended["trace_id"] == TRACE


async def test_redis_is_away_at_the_commit(
    fresh_settings: Settings, service: Service, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PUBLISH_GRACE", 0.1)
    away = fresh_settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    async with running_app(away) as app:
        app.include_router(router)
        async with client_for(app) as client:
            answer = await client.post("/notes?text=later")
    assert answer.status_code == 202
    scheduler = start("scheduler")
    start("worker")
    await service.becomes(JobStatus.model_validate(answer.json()).id, "succeeded")
    scheduler.terminate()
    assert await scheduler.ended() == 0


async def test_a_killed_workers_job_is_run_by_another(service: Service, start: Start) -> None:
    workers = {worker.group: worker for worker in (start("worker"), start("worker"))}
    start("scheduler")
    job = await service.enqueue(samples.wait, gate="open")
    first = await service.started("open")
    workers[first].kill()
    second = await service.started("open")
    assert {first, second} == set(workers)
    await service.app.state.redis.set("open", 1)
    assert (await service.becomes(job.id, "succeeded")).attempts == 2


async def test_a_stopped_worker_finishes_what_it_can_and_gives_back_the_rest(
    service: Service, start: Start
) -> None:
    worker = start("worker", WORKER_CONCURRENCY="2", WORKER_SHUTDOWN_TIMEOUT="3")
    quick = await service.enqueue(samples.wait, gate="open")
    endless = await service.enqueue(samples.wait, gate="never")
    await service.started("open")
    await service.started("never")
    late = await service.enqueue(samples.note, text="for another worker")
    worker.terminate()
    await asyncio.sleep(0.5)
    await service.app.state.redis.set("open", 1)
    assert await worker.ended() == 0
    finished, released = await service.status(quick.id), await service.status(endless.id)
    assert (finished.status, finished.attempts) == ("succeeded", 1)
    assert (released.status, released.attempts) == ("queued", 0)
    assert (await service.status(late.id)).status == "queued"


async def test_no_more_jobs_run_at_once_than_the_worker_was_told(
    service: Service, start: Start
) -> None:
    start("worker", WORKER_CONCURRENCY="2")
    jobs = [await service.enqueue(samples.wait, gate="open") for _ in range(4)]
    for _ in range(2):
        await service.started("open")
    assert await service.app.state.redis.blpop(["open:started"], timeout=2) is None
    await service.app.state.redis.set("open", 1)
    for job in jobs:
        await service.becomes(job.id, "succeeded")
    await service.drained()


async def test_garbage_in_the_queue_stops_no_worker(service: Service, start: Start) -> None:
    redis, transport = service.app.state.redis, service.app.state.transport
    await transport.publish(["no id"])
    for key in await redis.keys():
        match await redis.type(key):
            case "list":
                await redis.lpush(key, "garbage", '{"body": 7}', b"\xff")
            case "zset":
                await redis.zadd(key, {"garbage": 1, b"\xff": 1})
            case "stream":
                await redis.xadd(key, {"garbage": "garbage"})
                await redis.xadd(key, {"data": b"\xff"})
            case "string":
                await redis.set(key, b"\xff")
    start("worker")
    start("scheduler", JOBS_REPUBLISH_AFTER="1")
    for text in ("a", "b"):
        job = await service.enqueue(samples.note, text=text)
        await service.becomes(job.id, "succeeded")


async def test_a_job_that_always_fails_dies_and_can_be_replayed(
    service: Service,
    start: Start,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start("worker")
    start("scheduler")
    job = await service.enqueue(samples.fail)
    first = await service.becomes(job.id, "dead")
    assert await run("jobs", "replay", str(job.id)) == (0, "1 queued again.\n")
    second = first
    while second.finished_at in (None, first.finished_at):
        second = await service.becomes(job.id, "dead")
    assert (first.attempts, second.attempts) == (2, 2)


async def test_a_worker_says_that_it_lives_and_what_it_did(
    service: Service, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert await run("worker", "--health") == (1, "The worker gave no sign of life.\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start("worker", WORKER_METRICS_PORT=str(port))
    await service.becomes((await service.enqueue(samples.note, text="a")).id, "succeeded")
    assert await run("worker", "--health") == (0, "The worker is alive.\n")
    url = f"http://127.0.0.1:{port}/metrics"
    answer = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
    lines = answer.read().decode().splitlines()
    assert (
        'job_attempts_total{job="tests.platform.jobs.samples.note",outcome="succeeded"} 1.0'
        in lines
    )
    assert 'job_duration_seconds_count{job="tests.platform.jobs.samples.note"} 1.0' in lines


async def test_dead_jobs_are_listed_and_replayed(
    service: Service, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    job = await service.enqueue(samples.leave)
    await service.runner.run(job.id)
    code, listed = await run("jobs", "list", "--dead")
    assert (code, listed.split()[0]) == (0, str(job.id))
    assert (
        "tests.platform.jobs.samples.leave  1x  RuntimeError: The job raised SystemExit." in listed
    )
    assert (await run("jobs", "replay"))[0] == 2
    assert await run("jobs", "replay", str(job.id)) == (0, "1 queued again.\n")
    assert (await service.status(job.id)).status == "queued"
    code, complaint = await run("jobs", "replay", str(job.id))
    assert code == 1
    assert f"There is no dead job {job.id}" in complaint
    assert await run("jobs", "replay", "--all") == (0, "0 queued again.\n")
