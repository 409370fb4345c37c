"""Jobs without a queue, in the API process."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from pydantic import SecretStr

from app.auth import current_user
from app.platform.base.errors import Conflict
from app.platform.data.database import TransactionEnded
from app.platform.jobs import Jobs, JobStatus, changes, job
from app.platform.jobs.context import JobQueue
from app.platform.jobs.status import JobState, Progress
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, connect_websocket, running_app
from tests.platform.jobs import samples

router = APIRouter()


@router.post("/test-jobs/{name}", status_code=202, dependencies=[Depends(current_user)])
async def enqueue(name: str, jobs: Jobs, unique: str | None = None) -> JobStatus:
    arguments: dict[str, dict[str, Any]] = {
        "note": {"text": "hello"},
        "fail_then_succeed": {"times": 2},
        "wait_for_gate": {"gate": "open"},
    }
    return await jobs.enqueue(getattr(samples, name), unique=unique, **arguments.get(name, {}))


@router.post("/conflicts")
async def conflict(jobs: Jobs) -> None:
    await jobs.enqueue(samples.note, text="never")
    raise Conflict("No.")


@pytest.fixture
async def service(fresh_settings: Settings) -> AsyncIterator[FastAPI]:
    quick = fresh_settings.model_copy(update={"jobs_backoff": 0.01})
    async with running_app(quick) as app:
        app.include_router(router)
        await app.state.redis.flushdb()
        yield app


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A signed-in client. A response arrives only after its background jobs have finished."""
    async with client_for(service) as client:
        client.headers.update(await sign_in(client, "carol@example.com"))
        yield client


async def status(caller: httpx2.AsyncClient, response: httpx2.Response) -> JobStatus:
    job_id = response.json()["id"]
    return JobStatus.model_validate((await caller.get(f"/api/v1/jobs/{job_id}")).json())


async def test_a_jobs_status_is_visible_to_every_process(
    fresh_settings: Settings, caller: httpx2.AsyncClient
) -> None:
    response = await caller.post("/test-jobs/note")
    assert response.json()["status"] == "queued"
    async with running_app(fresh_settings) as other, client_for(other) as elsewhere:
        elsewhere.headers.update(caller.headers)
        done = await status(elsewhere, response)
    assert (done.status, done.result, done.attempts) == ("succeeded", "HELLO", 1)


async def test_a_job_may_take_longer_than_a_request(
    fresh_settings: Settings, service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    impatient = fresh_settings.model_copy(update={"request_timeout": 0.8})
    async with running_app(impatient) as app, client_for(app) as client:
        app.include_router(router)
        client.headers.update(caller.headers)
        request = asyncio.create_task(client.post("/test-jobs/wait_for_gate"))
        await asyncio.sleep(1)
        await service.state.redis.set("open", 1)
        assert (await status(client, await request)).status == "succeeded"


async def test_a_failed_job_is_retried(caller: httpx2.AsyncClient) -> None:
    done = await status(caller, await caller.post("/test-jobs/fail_then_succeed"))
    assert (done.status, done.result, done.attempts) == ("succeeded", 3, 3)


async def test_progress_is_in_the_status_until_the_next_attempt(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    seen: list[tuple[JobState, int | None]] = []

    async def observer(_: UUID, state: JobState, progress: Progress | None) -> None:
        seen.append((state, progress and progress.done))

    changes.observe(service, observer)
    done = await status(caller, await caller.post("/test-jobs/reports_progress"))
    assert (done.status, done.progress) == ("succeeded", None)
    assert ("running", 0) in seen
    last = [("running", 100), ("queued", 100), ("running", None), ("succeeded", None)]
    assert seen[-4:] == last


@pytest.mark.parametrize(
    ("name", "attempts"),
    [("always_fails", "2 attempts"), ("slow_job", "1 attempt"), ("exits", "1 attempt")],
)
async def test_a_job_without_retries_left_is_dead(
    caller: httpx2.AsyncClient, name: str, attempts: str
) -> None:
    response = await caller.post(f"/test-jobs/{name}")
    assert response.status_code == 202
    dead = await status(caller, response)
    assert dead.status == "dead"
    assert dead.error == f"The job failed after {attempts}."


async def test_a_job_can_enqueue_another(service: FastAPI, caller: httpx2.AsyncClient) -> None:
    await caller.post("/test-jobs/enqueues_another")
    assert await service.state.redis.lrange("notes", 0, -1) == ["enqueued by a job"]


async def test_a_job_of_a_websocket_runs_after_its_commit(service: FastAPI) -> None:
    async def enqueue_on_websocket(websocket: WebSocket, jobs: Jobs) -> None:
        await websocket.accept()
        await jobs.enqueue(samples.note, text="from a websocket")
        assert await service.state.redis.lrange("notes", 0, -1) == []

    service.router.add_api_websocket_route("/websocket", enqueue_on_websocket)
    await connect_websocket(service, "/websocket", {})
    done = await service.state.redis.blpop(["notes"], timeout=5)
    assert done[1] == "from a websocket"


async def test_a_job_that_is_enqueued_after_the_response_raises_and_never_runs(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    raised: list[Exception] = []

    async def enqueue_late(jobs: JobQueue) -> None:
        try:
            await jobs.enqueue(samples.note, text="late", unique="late")
        except TransactionEnded as error:
            raised.append(error)

    async def in_the_background(jobs: Jobs, tasks: BackgroundTasks) -> None:
        tasks.add_task(enqueue_late, jobs)

    service.router.add_api_route("/late", in_the_background)
    await caller.get("/late")
    assert len(raised) == 1
    assert await service.state.redis.lrange("notes", 0, -1) == []
    assert await service.state.redis.keys("jobs:unique:*") == []


async def test_a_failed_request_runs_no_job(service: FastAPI, caller: httpx2.AsyncClient) -> None:
    assert (await caller.post("/conflicts")).status_code == 409
    assert await service.state.redis.lrange("notes", 0, -1) == []


async def test_a_unique_job_runs_once_at_a_time(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    first = asyncio.create_task(caller.post("/test-jobs/wait_for_gate?unique=key"))
    await service.state.redis.blpop(["open:started"], timeout=5)
    second = await caller.post("/test-jobs/wait_for_gate?unique=key")
    await service.state.redis.set("open", 1)
    assert second.json()["id"] == (await first).json()["id"]
    third = await caller.post("/test-jobs/wait_for_gate?unique=key")
    assert third.json()["id"] != second.json()["id"]


async def test_another_owners_unique_job_is_a_conflict_and_not_handed_out(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    first = asyncio.create_task(caller.post("/test-jobs/wait_for_gate?unique=key"))
    await service.state.redis.blpop(["open:started"], timeout=5)
    async with client_for(service) as other:
        other.headers.update(await sign_in(other, "mallory@example.com"))
        same = other.headers.get("authorization") == caller.headers.get("authorization")
        second = await other.post("/test-jobs/wait_for_gate?unique=key")
    await service.state.redis.set("open", 1)
    job_id = (await first).json()["id"]
    assert second.status_code == (202 if same else 409)
    assert (job_id in second.text) is same


async def test_without_redis_a_job_runs_but_has_no_status(
    fresh_settings: Settings, caller: httpx2.AsyncClient
) -> None:
    unreachable = fresh_settings.model_copy(
        update={"redis_url": SecretStr("redis://127.0.0.1:1/0")}
    )
    ran = asyncio.Event()

    @job(name=f"tests.without_redis.{time.time_ns()}")
    async def without_redis(context: Any) -> None:
        ran.set()

    async with running_app(unreachable) as app:
        other = APIRouter()

        @other.post("/test-jobs", status_code=202)
        async def enqueue_without_redis(jobs: Jobs) -> JobStatus:
            return await jobs.enqueue(without_redis)

        app.include_router(other)
        async with client_for(app) as client:
            client.headers.update(caller.headers)  # logging in needs Redis
            response = await client.post("/test-jobs")
            assert response.status_code == 202
            assert ran.is_set()
            job_id = UUID(response.json()["id"])
            assert (await client.get(f"/api/v1/jobs/{job_id}")).status_code == 503


async def test_a_scheduled_job_is_rejected_at_startup(
    fresh_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.main import create_app
    from app.platform.jobs import registry

    monkeypatch.setattr(registry, "_by_name", dict(registry._by_name))

    @job(name="tests.nightly", cron="0 3 * * *")
    async def nightly(context: Any) -> None: ...

    with pytest.raises(ValueError, match=r"tests.nightly: `cron` requires a scheduler"):
        create_app(fresh_settings)
