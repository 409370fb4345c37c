"""The profile ``monitoring``: Prometheus finds the service, and an alert reaches its receiver."""

import json
import re
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest

from .service import Stack, free_port, until


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the stack every second, where alerts need not last."""
    config = stack.project / "compose/prometheus.yml"
    often = "global:\n  evaluation_interval: 1s"
    config.write_text(config.read_text().replace("15s", "1s").replace("global:", often))
    for rules in (stack.project / "compose/rules").glob("*.yml"):
        rules.write_text(re.sub(r"\bfor: \d+m", "for: 1s", rules.read_text()))
    port = str(free_port())
    stack.compose("up", "--no-build", "--wait", "prometheus", PROMETHEUS_PORT=port)
    yield f"http://127.0.0.1:{port}"
    stack.compose("rm", "--stop", "--force", "prometheus")


@pytest.fixture
def alertmanager(stack: Stack) -> Iterator[None]:
    """An Alertmanager that sends pages to the stack's collector, a second after they fire."""
    config = stack.project / "compose/alertmanager.yml"
    config.write_text(re.sub(r"(group_\w+): \d+[ms]", r"\1: 1s", config.read_text()))
    (stack.project / ".secrets/alert_page_url").write_text("http://collector:4318/page")
    stack.compose("up", "--no-build", "--wait", "alertmanager", ALERTMANAGER_PORT=str(free_port()))
    yield
    stack.compose("rm", "--stop", "--force", "alertmanager")


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


@pytest.mark.usefixtures("alertmanager")
def test_an_alert_and_its_end_reach_the_receiver_of_pages(stack: Stack, prometheus: str) -> None:
    until(partial(query, prometheus, 'up{job="worker"} == 1'), 30)

    def told(status: str) -> bool:
        lines = stack.compose("logs", "--no-log-prefix", "collector").splitlines()
        return any("WorkerDown" in each and f'"status":"{status}"' in each for each in lines)

    assert not told("firing")
    stack.compose("stop", "worker")
    until(partial(told, "firing"), 60)
    # Not what it depends on: the migration would run a second time, after its dependents started.
    stack.compose("up", "--no-build", "--no-recreate", "--no-deps", "--wait", "worker")
    until(partial(told, "resolved"), 60)
