"""The faults of a game day belong to alerts, and each ends by a step of the alert's runbook.

The game day itself needs containers: ``make game-day``.
"""

import importlib.util
from typing import Any

import httpx2
import pytest

from tests.conftest import ROOT
from tests.test_runbooks import alerts


def load_tool() -> Any:
    """The module, which is in no package."""
    spec = importlib.util.spec_from_file_location("game_day", ROOT / "tools/game_day.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.mark.parametrize("fault", tool.faults(), ids=lambda fault: fault.name)
def test_a_fault_has_an_alert_and_ends_by_a_step_of_its_runbook(fault: Any) -> None:
    pages = {
        page
        for alert, severity, page in alerts()
        if alert == fault.alert and severity == fault.labels.get("severity", severity)
    }
    assert len(pages) == 1
    text = (ROOT / pages.pop()).read_text()
    steps = text.partition("## How to reduce the impact")[2].partition("## Who decides")[0]
    assert fault.step.lower() in steps.lower()


async def test_the_dependencies_of_faults_are_those_that_the_service_reports(
    client: httpx2.AsyncClient,
) -> None:
    await client.get("/health/ready")  # /metrics has what was checked
    reported = (await client.get("/metrics")).text
    named = {fault.labels["dependency"] for fault in tool.faults() if "dependency" in fault.labels}
    assert {name for name in named if f'dependency="{name}"' not in reported} == set()


def test_all_times_of_rules_are_divided_and_nothing_else() -> None:
    rules = """
      interval: 30s
      expr: max(a_seconds) > 600 and max_over_time(b[1h:1m]) > 0.1 or rate(c[5m]) > 14.4 * 0.001
      for: 5m
      other: rate(d[30s]) * 3600 > bool 900 and e < 10 * 86400 and f > 20
    """
    assert (
        tool.shortened(rules)
        == """
      interval: 1s
      expr: max(a_seconds) > 20 and max_over_time(b[120s:2s]) > 0.1 or rate(c[15s]) > 14.4 * 0.001
      for: 10s
      other: rate(d[15s]) * 3600 > bool 30 and e < 10 * 86400 and f > 20
    """
    )
