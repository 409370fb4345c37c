"""Traces as Datadog wants them: its three tags, whole ids, and logs that name the span."""

import json

import pytest

from app.platform import about
from app.settings import Settings
from tests.platform.observability.tracing.receiver import Collector, get, traced


async def test_the_resource_has_what_becomes_its_tags(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    service, env, version = (
        collector.resource[name]
        for name in ("service.name", "deployment.environment.name", "service.version")
    )
    assert (service, env, version) == (about.NAME, "test", about.version())


async def test_a_line_of_the_log_names_the_span_as_the_agent_got_it(
    settings: Settings, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]
    [line] = [line for line in lines if line.get("path") == "/things/7"]
    server = collector.one("GET /things/{thing}")
    assert (line["trace_id"], line["span_id"]) == (server.trace_id.hex(), server.span_id.hex())
    assert int(line["trace_id"], 16) >> 64, "only half of the id is there"
