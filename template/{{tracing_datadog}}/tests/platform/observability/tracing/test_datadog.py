"""Datadog: unified service tags, 128-bit trace ids, and log lines that link to spans."""

import json

import pytest

from app.platform import about
from app.settings import Settings
from tests.platform.observability.tracing.receiver import Collector, get, traced


async def test_the_resource_has_the_attributes_of_the_unified_service_tags(
    settings: Settings, collector: Collector
) -> None:
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    service, env, version = (
        collector.resource[name]
        for name in ("service.name", "deployment.environment.name", "service.version")
    )
    assert (service, env, version) == (about.NAME, "test", about.version())


async def test_log_lines_have_the_ids_of_the_exported_span(
    settings: Settings, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]
    [line] = [line for line in lines if line.get("path") == "/things/7"]
    server = collector.one("GET /things/{thing}")
    assert (line["trace_id"], line["span_id"]) == (server.trace_id.hex(), server.span_id.hex())
    assert int(line["trace_id"], 16) >> 64, "the trace id has only 64 bits"
