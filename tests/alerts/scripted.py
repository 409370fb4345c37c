"""Alerts against scripted series: ``promtool test rules`` says when which of them fires."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.alerts import tools

# At a time such as "12m", the severities that an alert fires with: "", "page", "ticket page".
Moments = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Series by their names, as promtool writes them, and what comes of them."""

    alert: str
    series: dict[str, str]
    moments: Moments
    interval: str = "30s"


def check(rules: Path, case: Case, folder: Path, severity: str = ".+") -> None:
    """Fail unless the alert, with a ``severity``, fires when the case says and only then."""
    alerts = f'ALERTS{{alertname="{case.alert}", alertstate="firing", severity=~"{severity}"}}'
    tests = [
        {
            "expr": f"count by (severity) ({alerts})",
            "eval_time": moment,
            "exp_samples": [
                {"labels": f'{{severity="{each}"}}', "value": 1} for each in severities.split()
            ],
        }
        for moment, severities in case.moments.items()
    ]
    run(rules, case.series, tests, folder, case.interval)


def run(
    rules: Path,
    series: dict[str, str],
    tests: list[dict[str, Any]],
    folder: Path,
    interval: str = "30s",
) -> None:
    """Fail unless each expression has its value at its time."""
    given = [{"series": name, "values": values} for name, values in series.items()]
    document = {
        "rule_files": [str(path) for path in sorted(rules.glob("*.yml"))],
        "evaluation_interval": interval,
        "tests": [{"interval": interval, "input_series": given, "promql_expr_test": tests}],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps(document))  # which is YAML
    tools.run(tools.promtool(), "test", "rules", file)
