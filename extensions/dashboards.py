"""Grafana dashboards, written from short descriptions of their panels.

``template/compose/grafana/dashboards/*.json.jinja`` describe the panels of every service, and an
option's ``panels`` those that it adds. A service gets Grafana's own JSON.
"""

import json
from itertools import groupby, pairwise
from typing import Annotated, Any, Literal

import yaml
from jinja2.ext import Extension
from pydantic import BaseModel, ConfigDict, StringConstraints

COLUMNS = 24  # of Grafana's grid
Question = Annotated[str, StringConstraints(pattern=r"^[A-Z][^\n]*\?$", max_length=60)]
# How many stand side by side at most, and the rows of the grid that each takes.
SIZES = {
    "stat": (4, 4),
    "timeseries": (3, 7),
    "bargauge": (3, 7),
    "heatmap": (3, 7),
    "logs": (1, 9),
}

Json = dict[str, Any]


class Panel(BaseModel):
    """A panel: the question that it answers, and queries by the legend of their series."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: str
    title: Question
    queries: dict[str, str]
    type: Literal["stat", "timeseries", "bargauge", "heatmap", "logs"] = "timeseries"
    unit: str = "short"  # https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/
    max: float | None = None
    signed: bool = False  # whether values may be negative, which are red
    note: str = ""  # what to do about it, or what a value means
    mappings: dict[int, str] = {}


class Dashboard(BaseModel):
    """A dashboard with its panels; ``variables``: labels by which the panels can be filtered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uid: str
    title: str
    description: str
    time: str = "now-1h"
    variables: dict[str, str] = {}  # the metric whose values of the label are offered
    panels: list[Panel]


class Dashboards(Extension):
    """The filter ``dashboard``: a description in YAML as Grafana's JSON."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters["dashboard"] = dashboard


def dashboard(description: str, added: list[Json]) -> str:
    """The JSON of a dashboard with the panels that options add."""
    facts = yaml.safe_load(description)
    facts["panels"] += added
    return json.dumps(_dashboard(Dashboard(**facts)), indent=2, ensure_ascii=False)


def _dashboard(given: Dashboard) -> Json:
    return {
        "uid": given.uid,
        "title": given.title,
        "description": given.description,
        "tags": ["service"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "15s",
        "time": {"from": given.time, "to": "now"},
        "links": [
            {
                "title": "Dashboards",
                "type": "dashboards",
                "tags": ["service"],
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "annotations": {"list": [_alerts()]},
        "templating": {"list": [_variable(*each) for each in given.variables.items()]},
        "panels": _panels(given.panels),
    }


def _source(name: str) -> Json:
    return {"type": name, "uid": name}


def _alerts() -> Json:
    return {
        "name": "Alerts",
        "datasource": _source("prometheus"),
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}} {{instance}}",
        "step": "60s",
    }


def _variable(label: str, metric: str) -> Json:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _source("prometheus"),
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(panels: list[Panel]) -> list[Json]:
    """The panels by section, from left to right and from top to bottom."""
    sections = list(dict.fromkeys(panel.section for panel in panels))
    found: list[Json] = []
    y = 0
    for section in sections:
        grid = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        row = {"type": "row", "title": section, "collapsed": False, "gridPos": grid, "panels": []}
        found.append({"id": len(found) + 1, **row})
        y += 1
        here = [panel for panel in panels if panel.section == section]
        for size, group in groupby(here, lambda panel: SIZES[panel.type]):
            for line in _balanced(list(group), size[0]):
                width = COLUMNS // len(line)
                for number, panel in enumerate(line):
                    grid = {"x": number * width, "y": y, "w": width, "h": size[1]}
                    found.append({"id": len(found) + 1, **_panel(panel, grid)})
                y += size[1]
    return found


def _balanced(panels: list[Panel], most: int) -> list[list[Panel]]:
    """The panels in few lines of about as many each: two and two, not three and one."""
    lines = -(-len(panels) // most)
    ends = [round(len(panels) * number / lines) for number in range(lines + 1)]
    return [panels[start:end] for start, end in pairwise(ends)]


def _panel(panel: Panel, grid: dict[str, int]) -> Json:
    source = _source("loki" if panel.type == "logs" else "prometheus")
    targets = [
        _target(panel, source, chr(ord("A") + number), *query)
        for number, query in enumerate(panel.queries.items())
    ]
    written = {"type": panel.type, "title": panel.title, "description": panel.note}
    return {
        **{name: text for name, text in written.items() if text},
        "datasource": source,
        "gridPos": grid,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "targets": targets,
    }


def _field(panel: Panel) -> Json:
    field: Json = {} if panel.type == "logs" else {"unit": panel.unit}
    if panel.signed:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": 0}]
        field["thresholds"] = {"mode": "absolute", "steps": steps}
    elif field:
        field["min"] = 0
    if panel.max is not None:
        field["max"] = panel.max
    if panel.mappings:
        texts = {str(value): {"text": text} for value, text in panel.mappings.items()}
        field["mappings"] = [{"type": "value", "options": texts}]
    if panel.type == "timeseries":
        field["custom"] = {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}
        if panel.signed:
            field["custom"] |= {"axisSoftMin": 0, "thresholdsStyle": {"mode": "line"}}
    return field


def _options(panel: Panel) -> Json:
    if panel.type == "timeseries":
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.type == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}}
    if panel.type == "logs":
        return {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True}
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}


def _target(panel: Panel, source: Json, ref: str, legend: str, expression: str) -> Json:
    target: Json = {"refId": ref, "datasource": source, "expr": " ".join(expression.split())}
    if panel.type == "logs":
        return target
    target["legendFormat"] = legend
    if panel.type in ("stat", "bargauge"):
        target["instant"] = True
    if panel.type == "heatmap":
        target["format"] = "heatmap"
    if panel.type == "timeseries" and "_bucket" in expression:
        target["exemplar"] = True  # dots that link to traces
    return target
