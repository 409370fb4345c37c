"""Real workers and schedulers, and what becomes of the jobs when they die."""

import asyncio
import socket
import sys
import urllib.request
from subprocess import run

import pytest
from fastapi import APIRouter
from pydantic import SecretStr

from app.jobs import Jobs, JobStatus, queue
from app.settings import Settings
from app.settings.tracing import TracingSettings
from tests.conftest import ROOT, client_of, running
from tests.jobs import samples
from tests.jobs.conftest import Process, Service, Start

router = APIRouter()
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "from-the-caller"}


@router.post("/notes", status_code=202)
async def take_note(text: str, jobs: Jobs) -> JobStatus:
    return await jobs.enqueue(samples.note, text=text)


async def test_request_and_trace_go_on_in_the_job(service: Service, start: Start) -> None:
    worker = start("worker")
    service.app.include_router(router)
    async with client_of(service.app) as client:
        job = JobStatus.model_validate(
            (await client.post("/notes?text=hello", headers=SENT)).json()
        )
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
    monkeypatch.setattr(queue, "HEAD_START", 0.1)
    away = fresh_settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    async with running(away) as app:
        app.include_router(router)
        async with client_of(app) as client:
            answer = await client.post("/notes?text=later")
    assert answer.status_code == 202
    start("worker")
    start("scheduler")
    await service.becomes(JobStatus.model_validate(answer.json()).id, "succeeded")


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


async def test_a_worker_that_is_stopped_finishes_its_job(service: Service, start: Start) -> None:
    worker = start("worker")
    job = await service.enqueue(samples.wait, gate="open")
    await service.started("open")
    waiting = await service.enqueue(samples.note, text="for another worker")
    worker.terminate()
    await asyncio.sleep(1)
    await service.app.state.redis.set("open", 1)
    assert await worker.ended() == 0
    done = await service.status(job.id)
    assert (done.status, done.attempts) == ("succeeded", 1)
    assert (await service.status(waiting.id)).status == "queued"


async def test_a_job_that_takes_too_long_to_stop_is_given_back(
    service: Service, start: Start
) -> None:
    worker = start("worker", WORKER_GRACE="0.5")
    job = await service.enqueue(samples.wait, gate="never")
    await service.started("never")
    worker.terminate()
    assert await worker.ended() == 0
    status = await service.status(job.id)
    assert (status.status, status.attempts) == ("queued", 0)


async def test_worker_and_scheduler_say_that_they_live(service: Service, start: Start) -> None:
    scheduler = start("scheduler")
    assert "worker gave no sign of life" in await ask(scheduler, "worker", "--health", code=1)
    worker = start("worker")
    await service.becomes((await service.enqueue(samples.note, text="a")).id, "succeeded")
    for process, name in ((worker, "worker"), (scheduler, "scheduler")):
        assert f"{name} is alive" in await ask(process, name, "--health")
    scheduler.terminate()
    assert await scheduler.ended() == 0


async def test_a_worker_serves_the_numbers_of_its_attempts(service: Service, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start("worker", WORKER_METRICS_PORT=str(port))
    await service.becomes((await service.enqueue(samples.note, text="a")).id, "succeeded")
    await service.becomes((await service.enqueue(samples.fail)).id, "queued")
    url = f"http://127.0.0.1:{port}/metrics"
    answer = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
    lines = answer.read().decode().splitlines()
    assert 'job_attempts_total{job="tests.jobs.samples.note",outcome="succeeded"} 1.0' in lines
    assert 'job_duration_seconds_count{job="tests.jobs.samples.note"} 1.0' in lines


async def test_dead_jobs_are_listed_and_replayed(service: Service, start: Start) -> None:
    job = await service.enqueue(samples.leave)
    await service.runner.run(job.id)
    process = start("scheduler")
    listed = await ask(process, "jobs", "list", "--dead")
    assert f"{job.id}" in listed
    assert "tests.jobs.samples.leave  1x  RuntimeError: The job raised SystemExit." in listed
    assert "Give the id of one dead job, or --all" in await ask(process, "jobs", "replay", code=2)
    assert "1 queued again" in await ask(process, "jobs", "replay", str(job.id))
    assert "There is no dead job" in await ask(process, "jobs", "replay", str(job.id), code=1)
    assert (await service.status(job.id)).status == "queued"


async def ask(process: Process, *command: str, code: int = 0) -> str:
    """Run a command of the service where ``process`` runs; return what it says."""
    ran = await asyncio.to_thread(
        run,
        [sys.executable, "-m", "app", *command],
        env=process.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr
