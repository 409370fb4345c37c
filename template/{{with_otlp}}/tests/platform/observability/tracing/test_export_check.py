"""What ``app check`` says about the export of spans."""

import pytest

from app.platform.observability import tracing
from app.platform.observability.tracing import provider
from app.settings import Settings
from tests.platform.observability.tracing.receiver import Collector


@pytest.fixture(autouse=True)
def _nothing_was_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are logged once a minute; those of other tests in this process count, too."""
    monkeypatch.setattr(provider._once_per_minute, "_passed", {})


async def checked(settings: Settings, endpoint: str | None, environment: str = "production") -> str:
    update = {"otel_exporter_otlp_endpoint": endpoint, "environment": environment}
    return await tracing.check_export(settings.model_copy(update=update))


async def test_a_span_arrives(settings: Settings, collector: Collector) -> None:
    assert await checked(settings, collector.url) == "a span was accepted"
    assert [span.name for span in collector.spans] == ["app check"]


@pytest.mark.parametrize("status", [401, 403])
async def test_an_endpoint_that_refuses_the_key_is_told(
    settings: Settings, collector: Collector, status: int
) -> None:
    collector.status = status
    with pytest.raises(tracing.NotExported, match=f"spans are lost: .*{status}"):
        await checked(settings, collector.url)


async def test_an_endpoint_that_does_not_answer_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with pytest.raises(tracing.NotExported, match="spans are lost: "):
        await checked(settings, "http://127.0.0.1:9")


async def test_without_an_endpoint_only_a_deployed_service_is_warned(settings: Settings) -> None:
    assert await checked(settings, None, "development") == "not exported"
    with pytest.raises(tracing.NotExported, match="no endpoint"):
        await checked(settings, None)
