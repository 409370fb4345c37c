"""Dashboards and alerts: each metric is shown somewhere, and each metric shown is reported."""

import json
import re

import httpx2

from tests.conftest import ROOT

RULES = "\n".join(path.read_text() for path in sorted((ROOT / "compose/rules").glob("*.yml")))
BOARDS = [json.loads(path.read_text()) for path in (ROOT / "compose/grafana").rglob("*.json")]
QUERIES = [
    target["expr"]
    for board in BOARDS
    for panel in board["panels"]
    for target in panel.get("targets", [])
    if target["datasource"]["uid"] == "prometheus"
]
DOCS = "\n".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
# Of Prometheus, of its probe of the certificate, and of a component that is off by default.
ELSEWHERE = {"up", "ALERTS", "probe_ssl_earliest_cert_expiry", "db_replica_lag_seconds"}


def without_suffix(name: str) -> str:
    return re.sub(r"_(count|sum|bucket|total)$", "", name)


def metrics_of(query: str) -> set[str]:
    """The metrics that a query reads: names outside of braces, brackets and grouping clauses."""
    grouping = r"\b(by|without|on|ignoring|group_left) *\([^)]*\)"
    plain = re.sub(rf'{{[^}}]*}}|\[[^]]*\]|"[^"]*"|{grouping}', "", query)
    names = re.findall(r"(?<![\w.:$])[a-zA-Z_]\w+(?![\w:(]| *\()", plain)
    return set(names) - {"or", "and", "unless", "bool", "by", "on", "offset"}


async def reported(client: httpx2.AsyncClient) -> set[str]:
    """The metrics of the service, without the time at which each began to count."""
    text = (await client.get("/metrics")).text
    names = re.findall(r"(?m)^# TYPE (\w+) ", text)
    return {name for name in names if not name.endswith("_created")}


async def test_each_metric_is_on_a_panel_in_an_alert_or_in_the_documentation(
    client: httpx2.AsyncClient,
) -> None:
    words = re.findall(r"\w+", "\n".join([*QUERIES, RULES, DOCS]))
    shown = {without_suffix(word) for word in words}
    assert {name for name in await reported(client) if without_suffix(name) not in shown} == set()


async def test_each_panel_asks_for_metrics_that_are_reported(client: httpx2.AsyncClient) -> None:
    known = {without_suffix(name) for name in await reported(client)} | ELSEWHERE
    # A recording rule computes a metric of its own.
    known |= set(re.findall(r"record: (\w+)", RULES))
    asked = {without_suffix(name) for query in QUERIES for name in metrics_of(query)}
    assert len(asked) > 15
    assert asked - known == set()
