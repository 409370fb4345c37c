"""What every queue promises to the routes that enqueue, and to the callers who ask."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request, Response

from app.auth import CurrentUser
from app.platform.base.errors import Conflict
from app.platform.jobs import Jobs, JobStatus, job, registry, status_headers
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
async def change_your_mind(jobs: Jobs) -> None:
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


async def test_the_answer_says_where_the_status_is(caller: httpx2.AsyncClient) -> None:
    answer = await caller.post("/notes", params={"text": "hello"})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    status = await caller.get(answer.headers["location"])
    assert status.status_code == 200
    assert status.json()["name"] == "tests.platform.jobs.samples.note"
    assert status.headers["cache-control"] == "no-store"
    finished = status.json()["status"] == "succeeded"
    assert ("retry-after" in status.headers) is not finished


async def test_a_job_is_none_of_another_callers_business(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    where = (await caller.post("/notes", params={"text": "mine"})).headers["location"]
    async with client_for(service) as other:
        other.headers.update(await sign_in(other, "mallory@example.com"))
        same = other.headers.get("authorization") == caller.headers.get("authorization")
        assert (await other.get(where)).status_code == (200 if same else 404)


async def test_an_unknown_job_is_not_found(caller: httpx2.AsyncClient) -> None:
    answer = await caller.get(f"/api/v1/jobs/{uuid4()}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


async def test_nothing_is_left_of_a_request_that_failed(
    service: FastAPI, caller: httpx2.AsyncClient
) -> None:
    answer = await caller.post("/conflicts")
    assert answer.status_code == 409
    assert (await caller.get(f"/api/v1/jobs/{UUID(answer.json()['detail'])}")).status_code == 404
    assert await service.state.redis.lrange("notes", 0, -1) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "`text`: Field required"),
        ({"text": 7}, "`text`: Input should be a valid string"),
        ({"text": "a", "colour": "red"}, "`colour`: Extra inputs are not permitted"),
    ],
)
async def test_wrong_arguments_are_refused_where_they_are_given(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        registry.definition_of(samples.note).to_json(arguments)


async def test_what_is_no_job_is_refused() -> None:
    async def plain() -> None: ...

    with pytest.raises(TypeError, match=r"is no job: put @job\(\) above it"):
        registry.definition_of(plain)


async def test_two_jobs_may_not_share_a_name() -> None:
    with pytest.raises(ValueError, match="Two jobs are called"):

        @job(name="tests.platform.jobs.samples.note")
        async def other(context: Any) -> None: ...


async def test_a_function_that_blocks_is_no_job() -> None:
    with pytest.raises(TypeError, match="is no `async def`"):

        @job()
        def blocking(context: Any) -> None: ...
