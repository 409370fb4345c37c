"""Traces, as a collector receives them, and the service without one."""

import threading

import orjson
import pytest
from fastapi import WebSocket
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import Integer, bindparam, literal_column, select, text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.platform.base import context
from app.platform.data.database import ReadSessionDep
from app.platform.http import routing
from app.platform.observability import logs, telemetry, tracing
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
from tests.platform.server.test_connection_limits import served


async def test_a_request_and_its_calls_are_one_trace(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        response = (await get(app, "/things/7?token=s3cret", Authorization="s3cret")).json()
    server = collector.one("GET /things/{thing}")
    statement, command, request = (collector.one(name) for name in ("SELECT", "SET", "GET"))
    assert server.kind == SERVER
    assert server.trace_id.hex() == response["trace_id"]
    for child in (statement, command, request):
        assert child.kind == CLIENT
        assert child.trace_id == server.trace_id
        assert child.parent_span_id == server.span_id
    assert attributes(server)["http.route"] == "/things/{thing}"
    assert attributes(server)["http.response.status_code"] == 200
    assert attributes(server)["url.path"] == "/things/7"
    assert attributes(statement)["db.query.text"] == "SELECT $1"
    assert collector.headers[-1]["traceparent"].split("-")[1] == response["trace_id"]
    assert "s3cret" not in str(collector.spans)


async def test_a_websocket_and_its_calls_are_one_trace(
    settings: Settings, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    async def talk(websocket: WebSocket, room: int) -> None:
        await websocket.accept()
        async with websocket.app.state.db.transaction() as session:
            await session.execute(text("SELECT 1"))
        await websocket.send_text(context.current().trace_id)
        if await websocket.receive_text() == "fail":
            raise RuntimeError("s3cret")

    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    async with traced(settings, collector.url, allowed_hosts=["127.0.0.1"]) as app:
        app.add_api_websocket_route("/talk/{room}", talk)
        async with served(app) as listener:
            logs.configure(app.state.settings)  # Uvicorn's configuration has replaced it
            for word, room in (("bye", 7), ("fail", 8)):
                url = f"ws://127.0.0.1:{listener.port}/talk/{room}?token=s3cret"
                async with connect(url, additional_headers=caller) as socket:
                    assert await socket.recv() == TRACE
                    await socket.send(word)
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
    said, failed = [span for span in collector.spans if span.name == "GET /talk/{room}"]
    statement = next(s for s in collector.spans if s.parent_span_id == said.span_id)
    assert statement.name == "SELECT"
    assert (said.kind, said.trace_id.hex(), failed.trace_id.hex()) == (SERVER, TRACE, TRACE)
    assert attributes(said)["http.response.status_code"] == 101
    assert attributes(said)["url.path"] == "/talk/7"
    assert said.status.code == Status.STATUS_CODE_UNSET
    assert attributes(failed)["error.type"] == "RuntimeError"
    assert "s3cret" not in str(collector.spans)
    lines = [line for line in capfd.readouterr().out.splitlines() if '"websocket"' in line]
    assert [orjson.loads(line)["trace_id"] for line in lines] == [TRACE, TRACE]


async def test_only_services_of_ours_are_told_the_trace(
    settings: Settings, collector: Collector
) -> None:
    """Nor its baggage, which is for them, too; the call still has its span."""
    token = baggage.set_baggage("plan", "gold")
    async with traced(settings, collector.url, request_id_hosts=["localhost"]) as app:
        attached = attach(token)
        response = (await get(app, "/things/7")).json()
        detach(attached)
    names = {*tracing.header_names(), "traceparent", "baggage", "x-request-id"}
    assert names.isdisjoint(collector.headers[-1])
    assert collector.one("GET").trace_id.hex() == response["trace_id"]


async def test_a_read_that_is_prepared_has_the_same_span(
    settings: Settings, collector: Collector
) -> None:
    statement = select(bindparam("value", type_=Integer))
    async with traced(settings, collector.url) as app:

        async def read(session: ReadSessionDep, value: int) -> int:
            row = await session.first(statement, value=value)
            assert row
            return row[0] // value

        app.add_api_route("/read", read)
        routing.install_index(app)
        for _ in range(3):
            await get(app, "/read?value=1987654321")
        assert app.state.db.prepared_reads.get(statement, {"value": 1987654321})
        await get(app, "/read?value=0")
    *_, usual, prepared, _ = spans = [s for s in collector.spans if s.name == "SELECT"]
    assert len(spans) == 4
    assert attributes(prepared) == attributes(usual)
    servers = {s.span_id for s in collector.spans if s.name == "GET /read"}
    assert {s.parent_span_id for s in spans} == servers
    assert "1987654321" not in str(spans)


async def test_the_span_of_a_prepared_read_has_its_error(
    settings: Settings, collector: Collector
) -> None:
    statement = select(literal_column("1") / bindparam("by", type_=Integer))
    async with traced(settings, collector.url) as app:

        async def read(session: ReadSessionDep, by: int) -> None:
            await session.first(statement, by=by)

        app.add_api_route("/read", read)
        routing.install_index(app)
        for by in (1, 1, 1, 0):
            await get(app, f"/read?by={by}")
        assert app.state.db.prepared_reads.get(statement, {"by": 0})
    *_, failed = [s for s in collector.spans if s.name == "SELECT"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert "Error" in attributes(failed)["error.type"]


tracer = trace.get_tracer("shop")  # before any service has started


@tracer.start_as_current_span("pack")
async def pack() -> None:
    trace.get_current_span().set_attribute("parcels", 2)


async def test_spans_of_opentelemetrys_own_api_belong_to_the_request(
    settings: Settings, collector: Collector
) -> None:
    async def order() -> None:
        await pack()
        with trace.get_tracer("shop").start_as_current_span("ship"):
            pass

    for _ in range(2):  # the second service of a process, too
        collector.spans.clear()
        async with traced(settings, collector.url) as app:
            app.add_api_route("/order", order)
            routing.install_index(app)
            await get(app, "/order")
        server = collector.one("GET /order")
        for span in (collector.one("pack"), collector.one("ship")):
            assert (span.trace_id, span.parent_span_id) == (server.trace_id, server.span_id)
    assert attributes(collector.one("pack"))["parcels"] == 2


async def test_a_span_of_a_feature_is_part_of_its_request_and_is_redacted(
    settings: Settings, collector: Collector
) -> None:
    async def order() -> None:
        telemetry.set_attributes({"order.channel": "web"})
        with telemetry.span("price order", {"order.lines": 3, "order.email": "joe@example.org"}):
            telemetry.set_attributes({"order.note": "of joe@example.org"})
            await pack()
        with telemetry.span("charge card"):
            raise RuntimeError("s3cret")

    async with traced(settings, collector.url) as app:
        app.add_api_route("/order", order)
        routing.install_index(app)
        await get(app, "/order")
    server, pricing = collector.one("GET /order"), collector.one("price order")
    assert attributes(server)["order.channel"] == "web"
    assert (pricing.trace_id, pricing.parent_span_id) == (server.trace_id, server.span_id)
    assert collector.one("pack").parent_span_id == pricing.span_id
    assert attributes(pricing)["order.lines"] == 3
    assert attributes(collector.one("charge card"))["error.type"] == "RuntimeError"
    assert "joe@" not in str(collector.spans)
    assert "s3cret" not in str(collector.spans)


async def test_an_unsampled_request_records_no_span_of_a_feature(
    settings: Settings, collector: Collector
) -> None:
    async def order() -> None:
        with telemetry.span("price order", {"order.lines": 3}):
            telemetry.set_attributes({"order.note": "none"})

    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        app.add_api_route("/order", order)
        routing.install_index(app)
        assert (await get(app, "/order")).is_success
    assert collector.spans == []


async def test_an_unsampled_request_records_no_span_of_opentelemetrys_own_api(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        app.add_api_route("/order", pack)
        routing.install_index(app)
        assert (await get(app, "/order")).is_success
    assert collector.spans == []


async def test_the_resource_names_the_environment(settings: Settings, collector: Collector) -> None:
    async with traced(settings, collector.url, environment="staging") as app:
        await get(app, "/things/7")
    assert collector.resource["deployment.environment.name"] == "staging"


async def test_resource_attributes_can_be_set(
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


async def test_the_callers_trace_continues(settings: Settings, collector: Collector) -> None:
    parent = f"00-{TRACE}-{CALLER}-01"
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        response = (await get(app, "/things/7", traceparent=parent)).json()
    assert response["trace_id"] == TRACE
    assert collector.one("GET /things/{thing}").parent_span_id.hex() == CALLER


async def test_a_trace_that_the_caller_does_not_sample_continues_unrecorded(
    settings: Settings, collector: Collector
) -> None:
    parent = f"00-{TRACE}-{CALLER}-00"
    async with traced(settings, collector.url) as app:
        response = (await get(app, "/things/7", traceparent=parent)).json()
    assert response["trace_id"] == TRACE
    assert collector.headers[-1]["traceparent"].startswith(f"00-{TRACE}-")
    assert collector.headers[-1]["traceparent"].endswith("-00")
    assert collector.spans == []


async def test_an_unsampled_request_still_has_ids(settings: Settings, collector: Collector) -> None:
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        response = (await get(app, "/things/7")).json()
    assert len(response["trace_id"]) == 32
    assert response["carrier"]["traceparent"].startswith(f"00-{response['trace_id']}-")
    assert collector.headers[-1]["traceparent"].split("-")[1] == response["trace_id"]
    assert collector.spans == []


async def test_requests_are_sampled_at_the_ratio(settings: Settings, collector: Collector) -> None:
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


async def test_a_failed_request_has_its_error_type(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        problem = (await get(app, "/fail")).json()
    span = collector.one("GET /fail")
    assert span.trace_id.hex() == problem["trace_id"]
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "RuntimeError"
    assert "s3cret" not in str(span)


async def test_a_failed_statement_has_error_status(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        with tracing.job_span("report", {}):
            async with app.state.db.engine.connect() as connection:
                with pytest.raises(Exception, match="does not exist"):
                    await connection.execute(text("SELECT nothing"))
    assert collector.one("SELECT").status.code == Span().status.STATUS_CODE_ERROR


async def test_a_job_continues_the_trace_of_the_request_that_enqueued_it(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        response = (await get(app, "/things/7")).json()
        with tracing.job_span("orders.export", response["carrier"]) as span:
            assert span.trace_id == response["trace_id"]
        with pytest.raises(ValueError, match="no"), tracing.job_span("broken", response["carrier"]):
            raise ValueError("no")
    job, broken = collector.one("orders.export"), collector.one("broken")
    assert job.kind == CONSUMER
    assert job.parent_span_id == collector.one("GET /things/{thing}").span_id
    assert attributes(broken)["error.type"] == "ValueError"


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("in_trace", [True, False])
async def test_a_job_has_the_baggage_of_the_request_that_enqueued_it(
    settings: Settings, collector: Collector, ratio: float, in_trace: bool
) -> None:
    """Whether or not the request is recorded, and has a trace already; foreign hosts get none."""
    headers = {"baggage": "plan=gold"}
    if in_trace:
        headers["traceparent"] = f"00-{TRACE}-{CALLER}-00"
    foreign = collector.url.replace("127.0.0.1", "localhost")
    changes = {"otel_traces_sampler_arg": ratio, "request_id_hosts": ["127.0.0.1"]}
    async with traced(settings, collector.url, **changes) as app:
        response = (await get(app, "/things/7", **headers)).json()
        with tracing.job_span("orders.export", response["carrier"]) as span:
            assert span.trace_id == response["trace_id"]
            assert baggage.get_baggage("plan") == "gold"
            sent = []
            for url in (collector.url, foreign):
                await app.state.http.get(f"{url}/peer")
                sent.append(collector.headers[-1].get("baggage"))
        assert baggage.get_baggage("plan") is None
    assert sent == ["plan=gold", None]


async def test_calls_outside_of_a_request_are_not_traced(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        await app.state.redis.ping()
        async with app.state.db.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    assert collector.spans == []


async def test_without_an_endpoint_there_are_ids_and_no_export(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    async with traced(settings, None) as app:
        response = (await get(app, "/things/7")).json()
        started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("OtelBatch")]
    assert len(response["trace_id"]) == 32
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
