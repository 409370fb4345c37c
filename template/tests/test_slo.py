"""What `make slo` writes from ``slo.toml`` is current, and every alert leads to its runbook."""

import importlib.util
import re
import sys
from types import ModuleType
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from tests.conftest import ROOT

OF_EXPORTERS = ("probe_", "node_")  # metrics, which this service does not have
GOOD = {"name": "x", "kind": "availability", "objective": 99.9}


@pytest.fixture(scope="module")
def slo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slo", ROOT / "tools/slo.py")
    assert spec
    assert spec.loader
    module = sys.modules["slo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_from_the_objectives_is_current(slo: ModuleType) -> None:
    assert not list(slo.stale()), "run `make slo`"


def test_a_changed_objective_changes_every_form_of_it(slo: ModuleType) -> None:
    now = slo.Objectives.read(ROOT / slo.SOURCE)
    stricter = now.model_copy(
        update={
            "objectives": tuple(
                each.model_copy(update={"objective": 99.99, "release_burn_rate": 7})
                for each in now.objectives
            )
        }
    )
    before, after = slo.written(now), slo.written(stricter)
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)


def test_an_objective_that_is_gone_takes_its_rules_along(slo: ModuleType) -> None:
    now = slo.Objectives.read(ROOT / slo.SOURCE)
    without = now.model_copy(update={"objectives": now.objectives[1:]})
    gone = now.objectives[0].name
    assert slo.written(without)[slo.RULES / f"slo-{gone}.yml"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": 100}, "less than 100"),
        ({"kind": "latency"}, "need it"),
        ({"kind": "latency", "within": 0.3}, "has to be a bucket: 0.005"),
        ({"within": 0.5}, "for latency and freshness"),
        ({"kind": "freshness", "within": 60, "routes": "/a"}, "no routes"),
        ({"kind": "freshness", "within": 60, "release_burn_rate": 2}, "gates no release"),
        ({"routes": '/a"'}, "without quotes"),
        ({"name": "My SLO"}, "match pattern"),
        ({"within_seconds": 1}, "not permitted"),
    ],
)
def test_an_invalid_objective_is_refused(slo: ModuleType, wrong: dict[str, Any], said: str) -> None:
    slo.Objective(**GOOD)
    with pytest.raises(ValidationError, match=said):
        slo.Objective(**{**GOOD, **wrong})


def test_burn_rates_are_those_of_the_workbook(slo: ModuleType) -> None:
    assert [window.burn_rate(30) for window in slo.WINDOWS] == [14.4, 6, 3, 1]
    assert [window.burn_rate(60) for window in slo.WINDOWS] == [28.8, 12, 6, 2]


def test_an_objective_whose_page_could_never_fire_is_refused(slo: ModuleType) -> None:
    lax = {"window": 30, "minimum_failures": 1, "objectives": [{**GOOD, "objective": 93}]}
    with pytest.raises(ValidationError, match=r"above 93\.1 %"):
        slo.Objectives(**lax)


def test_every_alert_has_a_severity_and_the_runbook_of_its_name() -> None:
    for path in (ROOT / "compose/rules").glob("*.yml"):
        for rule in re.split(r"^      - ", path.read_text(), flags=re.MULTILINE)[1:]:
            if name := re.match(r"alert: (\w+)$", rule, flags=re.MULTILINE):
                kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name[1]).lower()
                assert re.search(r"severity: (page|ticket)\b", rule), name[1]
                assert f"runbook: docs/runbooks/{kebab}.md" in rule
                assert "summary: " in rule
                assert "description: " in rule


async def test_rules_ask_for_metrics_that_exist(client: httpx2.AsyncClient) -> None:
    metrics = (await client.get("/metrics")).text
    exported = set(re.findall(r"^# TYPE (\w+)", metrics, flags=re.MULTILINE))
    for path in (ROOT / "compose/rules").glob("*.yml"):
        for text in re.findall(r"expr: ((?:(?! +(?:- |\w+:)).+\n?)+)", path.read_text()):
            bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", text)
            names = set(re.findall(r"(?<![\w:])[a-z]+(?:_[a-z]+)+\b(?!\()", bare))
            known = {re.sub(r"_(count|bucket)$", "", name) for name in names}
            ours = {name for name in known if not name.startswith(OF_EXPORTERS)}
            assert ours <= exported, path.name
