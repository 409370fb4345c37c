"""Worker and scheduler processes: shutdown, crashes, malformed messages, commands."""

import asyncio
import os
import signal
import socket
import tempfile
import urllib.request
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fastapi import APIRouter
from pydantic import SecretStr

from app.main import create_app
from app.platform.base.components import CommandContext
from app.platform.jobs import Jobs, JobStatus, add_commands
from app.platform.settings.tracing import TracingSettings
from app.settings import Settings, get_settings
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Start

router = APIRouter()
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "from-the-caller"}


@router.post("/notes", status_code=202)
async def take_note(text: str, jobs: Jobs) -> JobStatus:
    return await jobs.enqueue(samples.note, text=text)


async def run(*command: str) -> tuple[int, str]:
    """Run a command of the service; return its exit code and output."""
    cli = click.Group()
    add_commands(cli)
    context = CommandContext(get_settings, create_app)
    result = await asyncio.to_thread(partial(CliRunner().invoke, cli, command, obj=context))
    return result.exit_code, result.output


async def test_request_id_and_trace_continue_in_the_job(service: Service, start: Start) -> None:
    worker = start("worker")
    service.app.include_router(router)
    async with client_for(service.app) as client:
        response = await client.post("/notes?text=hello", headers=HEADERS)
    job = JobStatus.model_validate(response.json())
    assert (await service.wait_for_status(job.id, "succeeded")).result == "HELLO"
    worker.terminate()
    assert await worker.wait() == 0
    from_job, from_runner = (
        line for line in worker.log_lines() if line.get("request_id") == "from-the-caller"
    )
    assert (from_job["event"], from_runner["event"]) == ("noted", "job succeeded")
    if TracingSettings.model_fields:
        assert from_job["trace_id"] == from_runner["trace_id"] == TRACE


async def test_a_job_committed_without_redis_runs_later(
    fresh_settings: Settings, service: Service, start: Start
) -> None:
    without_redis = fresh_settings.model_copy(
        update={"redis_url": SecretStr("redis://127.0.0.1:1/0")}
    )
    async with running_app(without_redis) as app:
        app.include_router(router)
        async with client_for(app) as client:
            response = await client.post("/notes?text=later")
    assert response.status_code == 202
    scheduler = start("scheduler")
    start("worker", WORKER_SCHEDULER="false")
    await service.wait_for_status(JobStatus.model_validate(response.json()).id, "succeeded")
    await scheduler.wait_for_event("scheduler started")  # no job needs it without a broker
    scheduler.terminate()
    assert await scheduler.wait() == 0


async def test_every_line_at_every_level_has_the_shape_of_the_log(
    service: Service, start: Start
) -> None:
    processes = [start(name, LOG_LEVEL="DEBUG") for name in ("worker", "scheduler")]
    failing = await service.enqueue(samples.fail_then_succeed, times=1)
    await service.wait_for_status(failing.id, "succeeded")
    job = await service.enqueue(samples.wait_for_gate, gate="open")
    popped = await service.app.state.redis.blpop(["open:started"], timeout=TIMEOUT)
    if (pid := int(popped[1])) != processes[0].group:  # a child, of which there is more to say
        os.kill(pid, signal.SIGKILL)
        await service.wait_for_start("open")
    await service.app.state.redis.set("open", 1)
    await service.wait_for_status(job.id, "succeeded")
    await processes[1].wait_for_event("scheduler started")
    for process in processes:
        process.terminate()
        assert await process.wait() == 0
        loggers = {line["logger"] for line in process.log_lines()}  # raises if one is not JSON
        assert "sqlalchemy.engine.Engine" in loggers


async def test_a_killed_workers_job_runs_on_another(service: Service, start: Start) -> None:
    workers = {worker.group: worker for worker in (start("worker"), start("worker"))}
    start("scheduler")
    job = await service.enqueue(samples.wait_for_gate, gate="open")
    first = await service.wait_for_start("open")
    workers[first].kill()
    second = await service.wait_for_start("open")
    assert {first, second} == set(workers)
    await service.app.state.redis.set("open", 1)
    assert (await service.wait_for_status(job.id, "succeeded")).attempts == 2


async def test_a_stopped_worker_finishes_or_releases_its_jobs(
    service: Service, start: Start
) -> None:
    worker = start("worker", WORKER_CONCURRENCY="2", WORKER_SHUTDOWN_TIMEOUT="3")
    quick = await service.enqueue(samples.wait_for_gate, gate="open")
    endless = await service.enqueue(samples.wait_for_gate, gate="never")
    await service.wait_for_start("open")
    await service.wait_for_start("never")
    late = await service.enqueue(samples.note, text="for another worker")
    worker.terminate()
    await asyncio.sleep(0.5)
    await service.app.state.redis.set("open", 1)
    assert await worker.wait() == 0
    finished, released = await service.status(quick.id), await service.status(endless.id)
    assert (finished.status, finished.attempts) == ("succeeded", 1)
    assert (released.status, released.attempts) == ("queued", 0)
    assert (await service.status(late.id)).status == "queued"


async def test_a_worker_runs_at_most_its_concurrency(service: Service, start: Start) -> None:
    start("worker", WORKER_CONCURRENCY="2")
    jobs = [await service.enqueue(samples.wait_for_gate, gate="open") for _ in range(4)]
    for _ in range(2):
        await service.wait_for_start("open")
    assert await service.app.state.redis.blpop(["open:started"], timeout=2) is None
    await service.app.state.redis.set("open", 1)
    for job in jobs:
        await service.wait_for_status(job.id, "succeeded")
    await service.wait_until_queue_is_empty()


async def test_malformed_messages_do_not_stop_workers(service: Service, start: Start) -> None:
    redis, transport = service.app.state.redis, service.app.state.transport
    await transport.publish("no id")
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
    start("scheduler")
    for text in ("a", "b"):
        job = await service.enqueue(samples.note, text=text)
        await service.wait_for_status(job.id, "succeeded")


async def test_a_job_that_always_fails_is_dead_and_can_be_replayed(
    service: Service,
    start: Start,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start("worker")
    start("scheduler")
    job = await service.enqueue(samples.always_fails)
    first = await service.wait_for_status(job.id, "dead")
    assert await run("jobs", "replay", str(job.id)) == (0, "Jobs enqueued again: 1\n")
    second = first
    while second.finished_at in (None, first.finished_at):
        second = await service.wait_for_status(job.id, "dead")
    assert (first.attempts, second.attempts) == (2, 2)


async def test_a_worker_reports_health_and_metrics(
    service: Service, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert await run("worker", "--health") == (1, "The worker has had no heartbeat for 60 s.\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start("worker", WORKER_METRICS_PORT=str(port))
    await service.wait_for_status((await service.enqueue(samples.note, text="a")).id, "succeeded")
    assert await run("worker", "--health") == (0, "The worker is alive.\n")
    url = f"http://127.0.0.1:{port}/metrics"
    response = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
    lines = response.read().decode().splitlines()
    assert (
        'job_attempts_total{job="tests.platform.jobs.samples.note",outcome="succeeded"} 1.0'
        in lines
    )
    assert 'job_duration_seconds_count{job="tests.platform.jobs.samples.note"} 1.0' in lines


async def test_commands_list_and_replay_dead_jobs(
    service: Service, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert await run("jobs", "list") == (0, "There are no dead jobs.\n")
    job = await service.enqueue(samples.exits)
    await service.runner.run(job.id)
    code, output = await run("jobs", "list", "--dead")
    assert (code, output.split()[0]) == (0, str(job.id))
    assert (
        "tests.platform.jobs.samples.exits  1x  RuntimeError: The job raised SystemExit." in output
    )
    assert (await run("jobs", "replay"))[0] == 2
    assert await run("jobs", "replay", str(job.id)) == (0, "Jobs enqueued again: 1\n")
    assert (await service.status(job.id)).status == "queued"
    code, output = await run("jobs", "replay", str(job.id))
    assert code == 1
    assert f"There is no dead job {job.id}" in output
    assert await run("jobs", "replay", "--all") == (0, "Jobs enqueued again: 0\n")
