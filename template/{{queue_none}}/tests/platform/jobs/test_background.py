"""Jobs without a queue, in the process of the API."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import SecretStr

from app.platform.base.errors import Conflict
from app.platform.jobs import Jobs, JobStatus, job
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples

router = APIRouter()


@router.post("/jobs-of-tests/{name}", status_code=202)
async def enqueue(name: str, jobs: Jobs, unique: str | None = None) -> JobStatus:
    arguments: dict[str, dict[str, Any]] = {
        "note": {"text": "hello"},
        "fail_then_succeed": {"times": 2},
        "wait": {"gate": "open"},
    }
    return await jobs.enqueue(getattr(samples, name), unique=unique, **arguments.get(name, {}))


@router.post("/conflicts")
async def conflict(jobs: Jobs) -> None:
    await jobs.enqueue(samples.note, text="never")
    raise Conflict("No.")


@pytest.fixture
async def service(fresh_settings: Settings) -> AsyncIterator[FastAPI]:
    quick = fresh_settings.model_copy(update={"jobs_backoff": 0.01, "request_timeout": 0.5})
    async with running_app(quick) as app:
        app.include_router(router)
        await app.state.redis.flushdb()
        yield app


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Its answers come when the jobs have ended: nothing else of the app runs in between."""
    async with client_for(service) as client:
        client.headers.update(await sign_in(client, "carol@example.com"))
        yield client


async def status(caller: httpx2.AsyncClient, answer: httpx2.Response) -> JobStatus:
    job_id = answer.json()["id"]
    return JobStatus.model_validate((await caller.get(f"/api/v1/jobs/{job_id}")).json())


async def test_a_job_runs_and_any_process_can_tell(
    fresh_settings: Settings, caller: httpx2.AsyncClient
) -> None:
    answer = await caller.post("/jobs-of-tests/note")
    assert answer.json()["status"] == "queued"
    async with running_app(fresh_settings) as other, client_for(other) as elsewhere:
        elsewhere.headers.update(caller.headers)
        done = await status(elsewhere, answer)
    assert (done.status, done.result, done.attempts) == ("succeeded", "HELLO", 1)


async def test_a_job_may_take_longer_than_a_request(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    request = asyncio.create_task(caller.post("/jobs-of-tests/wait"))
    await asyncio.sleep(1)  # twice the request's time-out
    await service.state.redis.set("open", 1)
    assert (await status(caller, await request)).status == "succeeded"


async def test_a_failure_is_tried_again(caller: httpx2.AsyncClient) -> None:
    done = await status(caller, await caller.post("/jobs-of-tests/fail_then_succeed"))
    assert (done.status, done.result, done.attempts) == ("succeeded", 3, 3)


@pytest.mark.parametrize(("name", "attempts"), [("fail", 2), ("slow_job", 1), ("leave", 1)])
async def test_a_job_that_fails_for_good_says_so(
    caller: httpx2.AsyncClient, name: str, attempts: int
) -> None:
    answer = await caller.post(f"/jobs-of-tests/{name}")
    assert answer.status_code == 202
    dead = await status(caller, answer)
    assert dead.status == "dead"
    assert dead.error == f"It failed {attempts} times and was given up."


async def test_a_job_enqueues_another(service: FastAPI, caller: httpx2.AsyncClient) -> None:
    await caller.post("/jobs-of-tests/chain")
    assert await service.state.redis.lrange("notes", 0, -1) == ["chained"]


async def test_a_failed_request_runs_no_job(service: FastAPI, caller: httpx2.AsyncClient) -> None:
    assert (await caller.post("/conflicts")).status_code == 409
    assert await service.state.redis.lrange("notes", 0, -1) == []


async def test_a_unique_job_runs_once_at_a_time(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    first = asyncio.create_task(caller.post("/jobs-of-tests/wait?unique=key"))
    await service.state.redis.blpop(["open:started"], timeout=5)
    second = await caller.post("/jobs-of-tests/wait?unique=key")
    await service.state.redis.set("open", 1)
    assert second.json()["id"] == (await first).json()["id"]
    third = await caller.post("/jobs-of-tests/wait?unique=key")
    assert third.json()["id"] != second.json()["id"]


async def test_without_redis_a_job_runs_and_nobody_can_tell(
    fresh_settings: Settings, caller: httpx2.AsyncClient
) -> None:
    away = fresh_settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    ran = asyncio.Event()

    @job(name=f"tests.without_redis.{time.time_ns()}")
    async def without_redis(context: Any) -> None:
        ran.set()

    async with running_app(away) as app:
        other = APIRouter()

        @other.post("/away", status_code=202)
        async def enqueue_without_redis(jobs: Jobs) -> JobStatus:
            return await jobs.enqueue(without_redis)

        app.include_router(other)
        async with client_for(app) as client:
            client.headers.update(caller.headers)  # without Redis nobody can log in
            answer = await client.post("/away")
            assert answer.status_code == 202
            assert ran.is_set()
            job_id = UUID(answer.json()["id"])
            assert (await client.get(f"/api/v1/jobs/{job_id}")).status_code == 503


async def test_a_scheduled_job_is_refused_at_the_start(
    fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.main import create_app
    from app.platform.jobs import registry

    monkeypatch.setattr(registry, "_by_name", dict(registry._by_name))

    @job(name="tests.nightly", cron="0 3 * * *")
    async def nightly(context: Any) -> None: ...

    with pytest.raises(ValueError, match=r"tests.nightly: `cron` needs a scheduler"):
        create_app(fresh_settings)
