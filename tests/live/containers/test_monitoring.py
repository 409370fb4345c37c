"""The profile ``monitoring``: Prometheus finds the service; the overview has data."""

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
    stack.compose("up", "--no-build", "--wait", "prometheus", PROMETHEUS_PORT=port)
    yield f"http://127.0.0.1:{port}"
    stack.compose("rm", "--stop", "--force", "prometheus")


def query(prometheus: str, expression: str) -> list[Any]:
    """Return the series of an expression that have a number."""
    url = f"{prometheus}/api/v1/query?{urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=5) as response:
        result: list[Any] = json.load(response)["data"]["result"]
    return [series for series in result if series["value"][1] != "NaN"]


def test_every_panel_of_the_overview_has_data(stack: Stack, token: str, prometheus: str) -> None:
    """Those of all dashboards, with more options: ``tests/live/test_dashboards.py``."""
    for job in ("api", "worker"):
        until(partial(query, prometheus, f'up{{job="{job}"}} == 1'), 30)

    def has_data(expression: str) -> list[Any]:
        stack.ask("POST", "/api/v1/items/export", {}, token)  # a request, a query and a job
        return query(prometheus, expression)

    dashboard = stack.project / "compose/grafana/dashboards/overview.json"
    expressions = [
        target["expr"].replace("$__rate_interval", "10s").replace("$__range", "1m")
        for panel in json.loads(dashboard.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(expressions) > 10
    for expression in expressions:  # the rules of objectives run twice a minute
        until(partial(has_data, expression), 90)


def test_prometheus_stores_the_links_to_traces_and_has_the_rules(prometheus: str) -> None:
    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"{prometheus}/api/v1/{path}", timeout=5) as response:
            return json.load(response)["data"]

    assert "exemplar-storage" in ask("status/flags")["enable-feature"]
    assert {group["name"] for group in ask("rules")["groups"]} >= {"service", "jobs"}
