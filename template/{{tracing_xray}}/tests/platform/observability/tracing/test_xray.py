"""X-Ray: time-based trace ids, and its header in requests and calls."""

import time

from app.settings import Settings
from tests.platform.observability.tracing.receiver import CALLER, TRACE, Collector, get, traced

XRAY = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={CALLER}"


def start_of(trace_id: str) -> int:
    """The Unix time at the start of an id."""
    return int(trace_id[:8], 16)


async def test_trace_ids_start_with_the_time_also_when_unsampled(
    settings: Settings, collector: Collector
) -> None:
    for ratio in (1.0, 0.0):
        before = int(time.time())
        async with traced(settings, collector.url, otel_traces_sampler_arg=ratio) as app:
            ids = [(await get(app, "/things/7")).json()["trace_id"] for _ in range(3)]
        assert len(set(ids)) == 3
        assert all(before <= start_of(trace_id) <= time.time() for trace_id in ids)
    assert {start_of(span.trace_id.hex()) for span in collector.spans} <= set(
        range(before - 60, before + 1)
    )


async def test_a_trace_from_an_aws_service_continues(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.0) as app:
        response = (await get(app, "/things/7", **{"X-Amzn-Trace-Id": f"{XRAY};Sampled=1"})).json()
    server = collector.one("GET /things/{thing}")
    assert response["trace_id"] == server.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == CALLER


async def test_a_trace_that_aws_does_not_sample_is_not_recorded(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        response = (await get(app, "/things/7", **{"X-Amzn-Trace-Id": f"{XRAY};Sampled=0"})).json()
    assert response["trace_id"] == TRACE
    assert collector.spans == []


async def test_the_xray_header_is_passed_to_other_services_and_jobs(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        response = (await get(app, "/things/7")).json()
    root = f"Root=1-{response['trace_id'][:8]}-{response['trace_id'][8:]}"
    assert collector.headers[-1]["x-amzn-trace-id"].startswith(f"{root};Parent=")
    assert collector.headers[-1]["x-amzn-trace-id"].endswith(";Sampled=1")
    assert response["carrier"]["X-Amzn-Trace-Id"].startswith(root)


async def test_a_callers_traceparent_overrides_the_load_balancers_header(
    settings: Settings, collector: Collector
) -> None:
    balancer = "Root=1-00000001-000000000000000000000001;Parent=0000000000000001;Sampled=0"
    headers = {"X-Amzn-Trace-Id": balancer, "traceparent": f"00-{TRACE}-{CALLER}-01"}
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7", **headers)
    assert collector.one("GET /things/{thing}").trace_id.hex() == TRACE
