"""The flags in the span of a request."""

from app.platform.data.flags import FlagsDep
from app.settings import Settings
from tests.platform.observability.tracing.receiver import Collector, get, traced


async def test_the_span_of_a_request_has_its_flags_without_the_user(
    settings: Settings, collector: Collector
) -> None:
    async def read(flags: FlagsDep) -> None:
        flags.enabled("on", "user-7")
        flags.value("tone", "loud", "user-7")
        flags.value("missing", 7)

    fixed = settings.model_copy(update={"flags": {"on": True, "tone": "joe@example.org"}})
    async with traced(fixed, collector.url) as app:
        app.add_api_route("/flags", read)
        await get(app, "/flags")
    [span] = [span for span in collector.spans if span.events]
    flags = [each for each in span.attributes if each.key == "flags.evaluated"]
    values = [each.string_value for each in flags[0].value.array_value.values]
    assert values == ["on=True", "tone=[redacted]", "missing=7"]
    events = [{each.key: each.value for each in event.attributes} for event in span.events]
    assert {event.name for event in span.events} == {"feature_flag.evaluation"}
    assert [event["feature_flag.key"].string_value for event in events] == ["on", "tone", "missing"]
    assert events[2]["error.type"].string_value == "flag_not_found"
    assert "user-7" not in str(span)
    assert "joe" not in str(span)
