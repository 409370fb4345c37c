"""The status of a job as an event stream: now, and after each change."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.context import bind_request_context
from tests.actors import sign_in
from tests.conftest import client_for, running_app
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.streams import Stream, open_stream


@pytest.fixture
async def api(service: Service) -> AsyncIterator[FastAPI]:
    """The API in an app of its own, which learns of the jobs from Redis."""
    async with running_app(service.settings) as app:
        yield app


async def changes_until(stream: Stream, status: str) -> list[Any]:
    changes: list[Any] = []
    while not changes or changes[-1]["status"] != status:
        event = await stream.event()
        assert event["event"] == "JobChange"
        changes.append(json.loads(event["data"]))
    return changes


async def test_a_stream_has_the_state_and_progress_of_a_job_until_its_end(
    service: Service, api: FastAPI
) -> None:
    async with client_for(api) as client:
        headers = await sign_in(client, "carol@example.com")
    enqueued = await service.enqueue(samples.reports_progress)
    path = f"/api/v1/jobs/{enqueued.id}/events"
    async with open_stream(api, path, headers) as stream:
        assert await changes_until(stream, "queued") == [{"status": "queued", "progress": None}]
        await service.runner.run(enqueued.id)
        changes = await changes_until(stream, "queued")
        done = {"done": 100, "total": 100, "message": "counting"}
        assert changes[0] == {"status": "running", "progress": None}
        assert changes[-2] == {"status": "running", "progress": done}
        await service.run_until_finished(enqueued.id)
        await changes_until(stream, "succeeded")
    async with open_stream(api, path, headers) as late:
        assert await changes_until(late, "succeeded") == [{"status": "succeeded", "progress": None}]


async def test_a_job_of_another_caller_has_no_stream(service: Service, api: FastAPI) -> None:
    async with client_for(api) as client:
        headers = await sign_in(client, "carol@example.com")
    with bind_request_context(user_id="another"):
        enqueued = await service.enqueue(samples.note, text="theirs")
    path = f"/api/v1/jobs/{enqueued.id}/events"
    async with open_stream(api, path, headers) as stream:
        assert stream.status == 404
    assert api.state.event_streams.listeners == set()


async def test_a_job_that_nobody_follows_leaves_nothing_in_redis(service: Service) -> None:
    enqueued = await service.enqueue(samples.reports_progress)
    await service.run_until_finished(enqueued.id)
    assert await service.app.state.redis.keys("events:*") == []


async def test_a_job_runs_though_redis_is_away(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = Redis(port=1, socket_connect_timeout=1)
    monkeypatch.setattr(service.app.state.event_streams.topics, "_redis", unreachable)
    enqueued = await service.enqueue(samples.fail_then_succeed, times=0)
    await service.runner.run(enqueued.id)
    assert (await service.status(enqueued.id)).status == "succeeded"
