"""The spans of calls to an upstream."""

from typing import Annotated

import pytest
from fastapi import Depends

from app.platform.data import upstreams
from app.platform.data.upstreams import Upstream, upstream
from app.settings import Settings
from tests.platform.data.peer import running_peer
from tests.platform.observability.tracing.receiver import (
    CLIENT,
    Collector,
    attributes,
    get,
    traced,
)


async def test_each_attempt_is_a_span_with_the_upstream_and_the_number_of_the_retry(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "_declared", {})
    async with running_peer(["500", "200"]) as peer:
        billing = upstream("billing", base_url=peer.url, backoff=0)

        async def call(billing: Annotated[Upstream, Depends(billing)]) -> int:
            return (await billing.get("/")).status_code

        async with traced(settings, collector.url) as app:
            app.add_api_route("/call", call)
            assert (await get(app, "/call")).json() == 200
    spans = [span for span in collector.spans if span.kind == CLIENT and span.name == "GET"]
    sent = sorted(attributes(span)["http.request.resend_count"] for span in spans)
    assert sent == [0, 1]
    assert {attributes(span)["service.peer.name"] for span in spans} == {"billing"}
    assert len({span.trace_id for span in spans}) == 1
