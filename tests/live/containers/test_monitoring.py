"""The profile ``monitoring``: Prometheus finds the service; each panel has data."""

import json
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest

from .service import Stack, free_port, until


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the stack every second instead of every 15."""
    config = stack.project / "compose/prometheus.yml"
    config.write_text(config.read_text().replace("15s", "1s"))
    port = str(free_port())
    stack.compose("up", "--no-build", "--detach", "prometheus", PROMETHEUS_PORT=port)
    yield f"http://127.0.0.1:{port}"
    stack.compose("rm", "--stop", "--force", "prometheus")


def query(prometheus: str, expression: str) -> list[Any]:
    url = f"{prometheus}/api/v1/query?{urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            result: list[Any] = json.load(response)["data"]["result"]
            return result
    except ConnectionError:
        return []


def test_every_panel_of_the_dashboard_has_data(stack: Stack, prometheus: str) -> None:
    until(lambda: query(prometheus, 'up{job="api"} == 1'), 30)
    stack.ask("GET", "/nowhere")
    dashboard = json.loads((stack.project / "compose/grafana/dashboards/service.json").read_text())
    expressions = [
        target["expr"].replace("$__rate_interval", "10s")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    assert len(expressions) > 5
    for expression in expressions:
        until(partial(query, prometheus, expression), 10)
