"""Traces, as a collector gets them; and the service, when there is none or it is away."""

import gzip
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import text

from app import context, routing, tracing
from app.settings import Settings
from tests.conftest import client_of, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SERVER, CLIENT, CONSUMER = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_CONSUMER


class Collector:
    """A real OTLP receiver, and an ordinary web server: it keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.headers: list[dict[str, str]] = []
        self.hangs = threading.Event()
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.receive(self)

            def do_GET(self) -> None:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def receive(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        if handler.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.hangs.is_set():
            self.released.wait(30)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def one(self, name: str) -> Span:
        [span] = [span for span in self.spans if span.name == name]
        return span


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.released.set()
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """The SDK is told by way of the environment; no test may leave something there."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("OTEL_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@asynccontextmanager
async def traced(settings: Settings, endpoint: str | None, **more: Any) -> AsyncIterator[FastAPI]:
    changes = {"otel_exporter_otlp_endpoint": endpoint, "otel_traces_sampler_arg": 1.0} | more
    async with running(settings.model_copy(update=changes)) as app:
        async with app.state.db.engine.connect():
            pass  # the first connection of an engine asks Postgres what it is

        async def ask(request: Request, thing: str) -> dict[str, Any]:
            state = request.app.state
            async with state.db.engine.connect() as connection:
                await connection.execute(text("SELECT :thing"), {"thing": thing})
            await state.redis.set("key", "s3cret")
            if endpoint:
                await state.http.get(f"{endpoint}/peer?token=s3cret")
            return {"trace_id": context.current().trace_id, "carrier": tracing.inject()}

        async def fail() -> None:
            raise RuntimeError("the password is s3cret")

        app.add_api_route("/things/{thing}", ask)
        app.add_api_route("/fail", fail, response_model=None)
        routing.index(app)
        yield app


async def get(app: FastAPI, path: str, **headers: str) -> httpx2.Response:
    async with client_of(app) as client:
        return await client.get(path, headers=headers)


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
        client_of(app) as client,
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
    async with traced(settings, None) as app:
        answer = (await get(app, "/things/7")).json()
        assert not [t for t in threading.enumerate() if t.name.startswith("OtelBatch")]
    assert len(answer["trace_id"]) == 32
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_collector_that_is_away_costs_neither_requests_nor_the_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    written: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = written.append  # type: ignore[method-assign]
    async with traced(settings, "http://127.0.0.1:9") as app:
        logging.getLogger().addHandler(handler)
        async with client_of(app) as client:
            for _ in range(300):
                assert (await client.get("/nowhere")).status_code == 404
        started = time.monotonic()
    logging.getLogger().removeHandler(handler)
    assert time.monotonic() - started < 8
    theirs = [record for record in written if record.name.startswith("opentelemetry")]
    assert len({record.msg for record in theirs}) == len(theirs)


async def test_a_collector_that_hangs_does_not_hold_up_the_exit(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.hangs.set()
    monkeypatch.setattr(tracing, "LAST_EXPORT", 0.5)
    async with traced(settings, collector.url) as app:
        await get(app, "/nowhere")
        started = time.monotonic()
    assert time.monotonic() - started < 3
