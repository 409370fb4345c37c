"""Enqueueing from routes and reading the status: the same for every queue."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request, Response

from app.auth import CurrentUser
from app.platform.base.errors import Conflict
from app.platform.jobs import Jobs, JobStatus, job, registry, status_headers
from app.platform.jobs.status import JobRecord, JobState, public_status
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples

router = APIRouter()


@router.post("/notes", status_code=202)
async def take_note(
    text: str, jobs: Jobs, user: CurrentUser, request: Request, response: Response
) -> JobStatus:
    status = await jobs.enqueue(samples.note, text=text)
    response.headers.update(status_headers(request, status))
    return status


@router.post("/conflicts", status_code=202)
async def conflict(jobs: Jobs) -> None:
    status = await jobs.enqueue(samples.note, text="never")
    raise Conflict(str(status.id))


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_app(module_settings) as app:
        app.include_router(router)
        await app.state.redis.flushdb()
        yield app


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(service) as client:
        client.headers.update(await sign_in(client, "carol@example.com"))
        yield client


async def test_the_response_links_to_the_jobs_status(caller: httpx2.AsyncClient) -> None:
    response = await caller.post("/notes", params={"text": "hello"})
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/jobs/{response.json()['id']}"
    status = await caller.get(response.headers["location"])
    assert status.status_code == 200
    assert status.json()["name"] == "tests.platform.jobs.samples.note"
    assert status.headers["cache-control"] == "no-store"
    finished = status.json()["status"] == "succeeded"
    assert ("retry-after" in status.headers) is not finished


async def test_another_callers_job_is_not_found(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    url = (await caller.post("/notes", params={"text": "mine"})).headers["location"]
    async with client_for(service) as other:
        other.headers.update(await sign_in(other, "mallory@example.com"))
        same = other.headers.get("authorization") == caller.headers.get("authorization")
        assert (await other.get(url)).status_code == (200 if same else 404)


@pytest.mark.parametrize(("attempts", "times"), [(1, "1 attempt"), (2, "2 attempts")])
async def test_the_error_of_a_dead_job_has_the_number_of_its_attempts(
    attempts: int, times: str
) -> None:
    values = {"id": uuid4(), "name": "x", "status": "dead", "created_at": datetime.now(UTC)}
    status = public_status(JobRecord(**values, attempts=attempts), owner=None, caller=None)
    assert status
    assert status.error == f"The job failed after {times}."


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "dead"])
async def test_no_status_shows_what_the_job_raised(state: JobState) -> None:
    values = {"id": uuid4(), "name": "x", "attempts": 2, "created_at": datetime.now(UTC)}
    record = JobRecord(**values, status=state, error="password=hunter2 is wrong")
    status = public_status(record, owner="carol", caller="carol")
    assert status
    assert "hunter2" not in status.model_dump_json()
    assert "hunter2" not in str(vars(status))
    assert status.error == ("The job failed after 2 attempts." if state == "dead" else None)


async def test_an_unknown_job_is_not_found(caller: httpx2.AsyncClient) -> None:
    response = await caller.get(f"/api/v1/jobs/{uuid4()}")
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


async def test_a_failed_request_enqueues_no_job(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    response = await caller.post("/conflicts")
    assert response.status_code == 409
    assert (await caller.get(f"/api/v1/jobs/{UUID(response.json()['detail'])}")).status_code == 404
    assert await service.state.redis.lrange("notes", 0, -1) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`text`: Field required"),
        ({"text": 7}, "`text`: Input should be a valid string"),
        ({"text": "a", "colour": "red"}, "`colour`: Extra inputs are not permitted"),
    ],
)
async def test_invalid_arguments_are_rejected_when_enqueued(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        registry.definition_of(samples.note).dump_arguments(arguments)


async def test_an_unregistered_function_is_rejected() -> None:
    async def unregistered() -> None: ...

    with pytest.raises(TypeError, match=r"is not a job; decorate it with @job\(\)"):
        registry.definition_of(unregistered)


async def test_job_names_are_unique() -> None:
    with pytest.raises(ValueError, match="Two jobs are named"):

        @job(name="tests.platform.jobs.samples.note")
        async def other(context: Any) -> None: ...


async def test_a_synchronous_function_is_rejected() -> None:
    with pytest.raises(TypeError, match="is not an `async def`"):

        @job()
        def blocking(context: Any) -> None: ...


async def test_a_parameter_that_a_job_cannot_be_given_is_rejected() -> None:
    async def positional(context: Any, *texts: str) -> None: ...

    async def keywords(context: Any, **texts: str) -> None: ...

    async def reserved(context: Any, delay: float) -> None: ...

    for function in (positional, keywords):
        with pytest.raises(TypeError, match=r"must name all parameters"):
            job()(function)
    with pytest.raises(TypeError, match="delay is a parameter of `enqueue`"):
        job()(reserved)
