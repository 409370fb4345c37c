"""Dashboards: what options describe is valid, and what comes out fits Grafana's grid."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from extensions import options
from extensions.dashboards import COLUMNS, Dashboard, Panel, dashboard

DASHBOARDS = sorted((options.TEMPLATE / "compose/grafana/dashboards").glob("*.json.jinja"))
# Fields of a panel without which Grafana shows nothing, by its type.
NEEDED = {"id", "type", "title", "gridPos"}


def written(path: Path) -> dict[str, Any]:
    """The dashboard with the panels of all options, as a service with all of them would have it."""
    core = path.read_text(encoding="utf-8").partition("{% raw %}")[2].partition("{% endraw %}")[0]
    name = path.name.removesuffix(".json.jinja")
    boards = [board for option in options.load() for board in option.panels.items()]
    added = [panel for board, panels in boards if board == name for panel in panels]
    found: dict[str, Any] = json.loads(dashboard(core, added))
    return found


def test_the_three_dashboards_are_described() -> None:
    names = [path.name.removesuffix(".json.jinja") for path in DASHBOARDS]
    assert names == ["debug", "on-call", "overview"]
    assert {name for o in options.load() for name in o.panels} <= set(names)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_panel_asks_a_question_of_its_own_and_has_a_place(path: Path) -> None:
    panels = written(path)["panels"]
    assert Counter(panel["id"] for panel in panels).most_common(1)[0][1] == 1
    titles = Counter(panel["title"] for panel in panels if panel["type"] != "row")
    assert titles.most_common(1)[0][1] == 1, titles
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel.keys() >= NEEDED
        assert panel["title"].endswith("?")
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        here = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= COLUMNS
        assert not here & cells, panel["title"]
        cells |= here


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_query_is_filtered_by_the_variables_of_its_dashboard(path: Path) -> None:
    board = written(path)
    names = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            if "http_server_request_duration_seconds" in query:
                assert all(f'{name}=~"${name}"' in query for name in names), query


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_job_is_named_by_the_label_that_prometheus_leaves_to_it(path: Path) -> None:
    """A scrape sets `job` to what it collects from, and renames the metric's own label."""
    for panel in written(path)["panels"]:
        for target in panel.get("targets", []):
            if "job_" in target["expr"]:
                assert "{{job}}" not in target["legendFormat"], panel["title"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": "Requests"}, "title"),
        ({"type": "piechart"}, "type"),
        ({"expr": "up"}, "expr"),
    ],
)
def test_a_panel_that_asks_nothing_or_has_an_unknown_field_is_refused(
    change: dict[str, str], said: str
) -> None:
    panel = {"section": "Is it up?", "title": "Is it up?", "queries": {"up": "up"}}
    Panel.model_validate(panel)
    with pytest.raises(ValidationError, match=said):
        Dashboard.model_validate(
            {"uid": "x", "title": "X", "description": "x", "panels": [panel | change]}
        )
