"""Traces, as a collector gets them; and the service, when there is none or it is away."""

import threading

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import text

from app.platform.observability import tracing
from app.settings import Settings
from tests.conftest import client_for
from tests.platform.observability.tracing.receiver import (
    CALLER,
    CLIENT,
    CONSUMER,
    SERVER,
    TRACE,
    Collector,
    attributes,
    get,
    traced,
)


async def test_a_request_and_what_it_asked_for_are_one_trace(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        answer = (await get(app, "/things/7?token=s3cret", Authorization="s3cret")).json()
    server = collector.one("GET /things/{thing}")
    statement, command, request = (collector.one(name) for name in ("SELECT", "SET", "GET"))
    assert server.kind == SERVER
    assert server.trace_id.hex() == answer["trace_id"]
    for child in (statement, command, request):
        assert child.kind == CLIENT
        assert child.trace_id == server.trace_id
        assert child.parent_span_id == server.span_id
    assert attributes(server)["http.route"] == "/things/{thing}"
    assert attributes(server)["http.response.status_code"] == 200
    assert attributes(server)["url.path"] == "/things/7"
    assert attributes(statement)["db.query.text"] == "SELECT $1"
    assert collector.headers[-1]["traceparent"].split("-")[1] == answer["trace_id"]
    assert "s3cret" not in str(collector.spans)


async def test_it_is_said_what_sent_the_spans(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=eu,deployment.environment.name=x")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    assert collector.resource["service.name"] == "renamed"
    assert collector.resource["service.version"]
    assert collector.resource["cloud.region"] == "eu"
    assert collector.resource["deployment.environment.name"] == "x"


async def test_the_callers_trace_goes_on(settings: Settings, collector: Collector) -> None:
    parent = f"00-{TRACE}-{CALLER}-01"
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        answer = (await get(app, "/things/7", traceparent=parent)).json()
    assert answer["trace_id"] == TRACE
    assert collector.one("GET /things/{thing}").parent_span_id.hex() == CALLER


async def test_what_the_caller_does_not_record_is_not_recorded_and_goes_on(
    settings: Settings, collector: Collector
) -> None:
    parent = f"00-{TRACE}-{CALLER}-00"
    async with traced(settings, collector.url) as app:
        answer = (await get(app, "/things/7", traceparent=parent)).json()
    assert answer["trace_id"] == TRACE
    assert collector.headers[-1]["traceparent"].startswith(f"00-{TRACE}-")
    assert collector.headers[-1]["traceparent"].endswith("-00")
    assert collector.spans == []


async def test_a_request_that_is_not_sampled_has_ids_all_the_same(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        answer = (await get(app, "/things/7")).json()
    assert len(answer["trace_id"]) == 32
    assert answer["carrier"]["traceparent"].startswith(f"00-{answer['trace_id']}-")
    assert collector.headers[-1]["traceparent"].split("-")[1] == answer["trace_id"]
    assert collector.spans == []


async def test_a_share_of_the_requests_is_recorded(
    settings: Settings, collector: Collector
) -> None:
    async with (
        traced(settings, collector.url, otel_traces_sampler_arg=0.3) as app,
        client_for(app) as client,
    ):
        for _ in range(200):
            await client.get("/nowhere")
    assert 30 < len(collector.spans) < 95  # 60 on average; beyond this once in a million runs


async def test_probes_are_not_traced(settings: Settings, collector: Collector) -> None:
    async with traced(settings, collector.url) as app:
        for path in ("/health/live", "/health/ready", "/metrics"):
            await get(app, path)
    assert collector.spans == []


async def test_a_failed_request_says_of_what_kind_the_error_was(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        problem = (await get(app, "/fail")).json()
    span = collector.one("GET /fail")
    assert span.trace_id.hex() == problem["trace_id"]
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "RuntimeError"
    assert "s3cret" not in str(span)


async def test_a_failed_statement_is_marked(settings: Settings, collector: Collector) -> None:
    async with traced(settings, collector.url) as app:
        with tracing.job_span("report", {}):
            async with app.state.db.engine.connect() as connection:
                with pytest.raises(Exception, match="does not exist"):
                    await connection.execute(text("SELECT nothing"))
    assert collector.one("SELECT").status.code == Span().status.STATUS_CODE_ERROR


async def test_a_job_goes_on_with_the_trace_of_the_request_that_asked_for_it(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        answer = (await get(app, "/things/7")).json()
        with tracing.job_span("items.export", answer["carrier"]) as span:
            assert span.trace_id == answer["trace_id"]
        with pytest.raises(ValueError, match="no"), tracing.job_span("broken", answer["carrier"]):
            raise ValueError("no")
    job, broken = collector.one("items.export"), collector.one("broken")
    assert job.kind == CONSUMER
    assert job.parent_span_id == collector.one("GET /things/{thing}").span_id
    assert attributes(broken)["error.type"] == "ValueError"


async def test_what_is_asked_for_outside_of_a_request_is_no_trace(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        await app.state.redis.ping()
        async with app.state.db.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    assert collector.spans == []


async def test_without_a_collector_there_are_ids_and_nothing_is_sent(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    async with traced(settings, None) as app:
        answer = (await get(app, "/things/7")).json()
        more = set(threading.enumerate()) - before
    assert not [thread for thread in more if thread.name.startswith("OtelBatch")]
    assert len(answer["trace_id"]) == 32
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
