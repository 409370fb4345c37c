"""Event streams: resumed, limited, ended politely; sent only if the transaction commits."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from redis.exceptions import ConnectionError as RedisConnectionError

from app.platform.data.topics import PREFIX, format_id
from app.platform.http.event_streams import EventStream, EventStreams, EventStreamsDep
from app.settings import Settings
from tests.conftest import client_for, running_platform
from tests.streams import open_stream


class Told(BaseModel):
    text: str


async def of_topic(
    topic: str, request: Request, streams: EventStreamsDep
) -> AsyncIterator[EventStream]:
    async with streams.open(request, topic, caller="somebody") as stream:
        yield stream


router = APIRouter()


@router.get("/streams/{topic}", response_class=EventSourceResponse)
async def watch(
    stream: Annotated[EventStream, Depends(of_topic)],
) -> AsyncIterator[ServerSentEvent]:
    async for event in stream:
        yield event


@pytest.fixture
async def streaming(settings: Settings) -> AsyncIterator[FastAPI]:
    """An app of its own, with a route that streams any topic."""
    changes = {"event_streams_per_caller": 2, "event_stream_max_age": 1000.0}
    async with running_platform(settings.model_copy(update=changes)) as app:
        await app.state.redis.flushdb()
        app.include_router(router)
        yield app


def streams_of(app: FastAPI) -> EventStreams:
    streams: EventStreams = app.state.event_streams
    return streams


async def metric(app: FastAPI, line: str) -> float:
    async with client_for(app) as client:
        text = (await client.get("/metrics")).text
    return float(next(each for each in text.splitlines() if each.startswith(line)).split()[-1])


async def test_an_event_has_the_name_of_its_class_its_data_and_an_id(streaming: FastAPI) -> None:
    async with open_stream(streaming, "/streams/a", {"accept-encoding": "gzip"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] in ("no-cache", "no-store")
        assert "content-encoding" not in stream.headers
        assert 1000 <= int((await stream.block())["retry"]) <= 5000
        await streams_of(streaming).publish("a", Told(text="hello\nthere"))
        event = await stream.event()
        assert (event["event"], event["data"]) == ("Told", '{"text":"hello\\nthere"}')
        assert event["id"]


async def test_a_client_resumes_where_it_stopped(streaming: FastAPI) -> None:
    streams = streams_of(streaming)
    async with open_stream(streaming, "/streams/a") as stream:
        await streams.publish("a", Told(text="1"))
        seen = (await stream.event())["id"]
    await streams.publish("a", Told(text="2"))
    async with open_stream(streaming, "/streams/a", {"Last-Event-ID": seen}) as stream:
        await streams.publish("a", Told(text="3"))
        assert [(await stream.event())["data"] for _ in range(2)] == [
            '{"text":"2"}',
            '{"text":"3"}',
        ]
    # A browser that gave up begins anew, and can set no header; a header is newer.
    newest = await streams.topics.publish("a", "Told", '{"text":"4"}')
    for headers, texts in (({}, "2"), ({"Last-Event-ID": format_id(newest)}, "5")):
        async with open_stream(streaming, f"/streams/a?after={seen}", headers) as stream:
            if headers:
                await streams.publish("a", Told(text="5"))
            assert json.loads((await stream.event())["data"])["text"] == texts
    await streaming.state.redis.delete(f"{PREFIX}a")
    async with open_stream(streaming, "/streams/a", {"Last-Event-ID": seen}) as stream:
        event = await stream.event()
        assert (event["event"], event.get("id")) == ("gap", None)


async def test_a_client_that_leaves_is_forgotten(streaming: FastAPI) -> None:
    async with open_stream(streaming, "/streams/a") as stream:
        await stream.block()
        assert await metric(streaming, "event_streams ") == 1
        stream.leave()
        await stream.ended.wait()
    assert await metric(streaming, "event_streams ") == 0
    assert await metric(streaming, 'event_streams_ended_total{reason="client"}') == 1
    assert streams_of(streaming).listeners == set()


async def test_a_caller_has_a_limited_number_of_streams(streaming: FastAPI) -> None:
    async with open_stream(streaming, "/streams/a"), open_stream(streaming, "/streams/b") as second:
        async with client_for(streaming) as client:
            refused = await client.get("/streams/c")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        second.leave()
        await second.ended.wait()
        async with open_stream(streaming, "/streams/c") as third:
            assert third.status == 200


async def test_a_stream_ends_at_its_maximum_age(settings: Settings) -> None:
    async with running_platform(settings.model_copy(update={"event_stream_max_age": 0.05})) as app:
        app.include_router(router)
        async with open_stream(app, "/streams/a") as stream:
            assert ["retry" in await stream.block() for _ in range(2)] == [True, True]
            await stream.ended.wait()
        assert await metric(app, 'event_streams_ended_total{reason="age"}') == 1


async def test_streams_end_politely_when_the_process_drains(settings: Settings) -> None:
    async with running_platform(settings) as app:
        app.include_router(router)
        async with open_stream(app, "/streams/a") as stream:
            await stream.block()
            app.state.draining = True
            assert "retry" in await stream.block()
            await stream.ended.wait()
        async with client_for(app) as client:
            refused = await client.get("/streams/a")
    assert refused.status_code == 503


async def test_an_event_of_a_transaction_is_sent_if_it_commits(streaming: FastAPI) -> None:
    streams = streams_of(streaming)
    async with open_stream(streaming, "/streams/a") as stream:
        with suppress(ZeroDivisionError):
            async with streaming.state.db.transaction() as session:
                streams.publish_on_commit(session, "a", Told(text="rolled back"))
                raise ZeroDivisionError
        async with streaming.state.db.transaction() as session:
            streams.publish_on_commit(session, "a", Told(text="committed"))
        assert (await stream.event())["data"] == '{"text":"committed"}'


async def test_an_event_that_redis_does_not_take_fails_no_commit(
    streaming: FastAPI, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_: object) -> None:
        raise RedisConnectionError

    streams = streams_of(streaming)
    monkeypatch.setattr(streams.topics, "publish", refuse)
    async with streaming.state.db.transaction() as session:
        streams.publish_on_commit(session, "a", Told(text="lost"))
    assert "event lost" in capfd.readouterr().out
