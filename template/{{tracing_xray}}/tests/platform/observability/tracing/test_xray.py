"""Traces as X-Ray wants them: ids with the time, its header in and out."""

import time

from app.settings import Settings
from tests.platform.observability.tracing.receiver import CALLER, TRACE, Collector, get, traced

XRAY = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={CALLER}"


def begun(trace_id: str) -> int:
    """Return the time that an id begins with."""
    return int(trace_id[:8], 16)


async def test_ids_begin_with_the_time_recorded_or_not(
    settings: Settings, collector: Collector
) -> None:
    for ratio in (1.0, 0.0):
        before = int(time.time())
        async with traced(settings, collector.url, otel_traces_sampler_arg=ratio) as app:
            ids = [(await get(app, "/things/7")).json()["trace_id"] for _ in range(3)]
        assert len(set(ids)) == 3
        assert all(before <= begun(each) <= time.time() for each in ids)
    assert {begun(span.trace_id.hex()) for span in collector.spans} <= set(
        range(before - 60, before + 1)
    )


async def test_the_trace_of_an_aws_service_goes_on(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        answer = (await get(app, "/things/7", **{"X-Amzn-Trace-Id": f"{XRAY};Sampled=1"})).json()
    server = collector.one("GET /things/{thing}")
    assert answer["trace_id"] == server.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == CALLER


async def test_what_aws_does_not_record_is_not_recorded(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        answer = (await get(app, "/things/7", **{"X-Amzn-Trace-Id": f"{XRAY};Sampled=0"})).json()
    assert answer["trace_id"] == TRACE
    assert collector.spans == []


async def test_the_header_goes_on_to_other_services_and_jobs(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        answer = (await get(app, "/things/7")).json()
    root = f"Root=1-{answer['trace_id'][:8]}-{answer['trace_id'][8:]}"
    assert collector.headers[-1]["x-amzn-trace-id"].startswith(f"{root};Parent=")
    assert collector.headers[-1]["x-amzn-trace-id"].endswith(";Sampled=1")
    assert answer["carrier"]["X-Amzn-Trace-Id"].startswith(root)


async def test_a_caller_outweighs_the_load_balancer(
    settings: Settings, collector: Collector
) -> None:
    balancer = "Root=1-00000001-000000000000000000000001;Parent=0000000000000001;Sampled=0"
    headers = {"X-Amzn-Trace-Id": balancer, "traceparent": f"00-{TRACE}-{CALLER}-01"}
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7", **headers)
    assert collector.one("GET /things/{thing}").trace_id.hex() == TRACE
