"""Honeycomb: the API key, the endpoint, and the sampling ratio."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.platform.observability.tracing import backend, provider
from app.platform.observability.tracing.spans import current
from app.settings import Settings
from tests.platform.observability.tracing.receiver import Collector, get, traced

KEY = "hcaik_01hq5vv3w2tzd8r9"


async def test_the_key_is_sent_to_honeycomb_only(
    settings: Settings, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    key = SecretStr(KEY)
    async with traced(settings, collector.url, honeycomb_api_key=key) as app:
        await get(app, "/things/7")
        assert KEY not in str(os.environ)
    assert {headers["x-honeycomb-team"] for headers in collector.exports} == {KEY}
    assert KEY not in str(collector.headers)
    assert KEY not in str(collector.spans)
    assert KEY not in "".join(capfd.readouterr())


async def test_the_key_can_be_a_file_and_other_headers_are_kept(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("HONEYCOMB_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-honeycomb-dataset=orders")
    from_file = Settings(**settings.model_dump(exclude_unset=True))
    async with traced(
        settings, collector.url, honeycomb_api_key=from_file.honeycomb_api_key
    ) as app:
        await get(app, "/things/7")
    assert collector.exports[0]["x-honeycomb-team"] == KEY
    assert collector.exports[0]["x-honeycomb-dataset"] == "orders"


def test_with_a_key_the_endpoint_defaults_to_honeycomb(settings: Settings) -> None:
    assert provider.span_processor_factory(settings) is None
    with_key = settings.model_copy(update={"honeycomb_api_key": SecretStr(KEY)})
    assert provider.span_processor_factory(with_key) is not None
    assert os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == backend.ENDPOINT


async def test_a_custom_endpoint_needs_no_key(settings: Settings, collector: Collector) -> None:
    async with traced(settings, collector.url) as app:
        await get(app, "/things/7")
    assert collector.spans
    assert "x-honeycomb-team" not in collector.exports[0]


async def test_a_span_carries_its_sampling_threshold(
    settings: Settings, collector: Collector
) -> None:
    """Honeycomb reads a sample rate of 4 from the threshold ``c``: three quarters are dropped."""
    async with traced(settings, collector.url, otel_traces_sampler_arg=0.25) as app:
        while not collector.spans:
            for _ in range(50):
                await get(app, "/things/7")
            tracing = current()
            assert tracing
            tracing.provider.force_flush()
    assert {span.trace_state for span in collector.spans} == {"ot=th:c"}
