"""The configurations of OpenTelemetry collectors: what the program itself would refuse or ignore.

No collector can be had where these tests run. Names and types are those of the components' own
schemas; the rest is what makes a decision about a whole trace right.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEMPLATE = Path(__file__).parents[2] / "template"

CONFIGURATIONS = [
    path
    for path in sorted(TEMPLATE.rglob("*.yaml"))
    if path.parent.name == "compose" and re.search(r"^receivers:", path.read_text(), re.MULTILINE)
]
EXPORT_DELAY = 5  # seconds; OTEL_BSP_SCHEDULE_DELAY
# Of each policy's type, what it needs.
POLICIES = {
    "status_code": {"status_codes": list},
    "latency": {"threshold_ms": int},
    "probabilistic": {"sampling_percentage": str},
}
SETTINGS = {"decision_wait", "num_traces", "decision_cache", "policies"}

by_name = pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_there_are_collectors() -> None:
    assert {path.name for path in CONFIGURATIONS} == {"collector.yaml", "xray.yaml"}


@by_name
def test_a_pipeline_has_what_is_configured_and_nothing_else(path: Path) -> None:
    configured = read(path)
    (pipeline,) = configured["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(configured[kind]) == set(pipeline[kind])
    assert set(configured.get("extensions", ())) == set(configured["service"].get("extensions", ()))


@by_name
def test_a_trace_is_complete_when_it_is_decided(path: Path) -> None:
    configured = read(path)
    (pipeline,) = configured["service"]["pipelines"].values()
    assert pipeline["processors"] == ["memory_limiter", "tail_sampling", "batch"]
    settings = (TEMPLATE / "src/app/platform/settings/http.py").read_text()
    found = re.search(r"request_timeout: float = Field\(\s*([\d.]+)", settings)
    assert found
    wait = configured["processors"]["tail_sampling"]["decision_wait"]
    assert int(wait.removesuffix("s")) > float(found[1]) + EXPORT_DELAY


@by_name
def test_errors_and_what_breaks_the_objective_are_kept(path: Path) -> None:
    sampling = read(path)["processors"]["tail_sampling"]
    assert set(sampling) == SETTINGS
    policies = {policy["type"]: policy for policy in sampling["policies"]}
    for kind, needs in POLICIES.items():
        assert set(policies[kind]) == {"name", "type", kind}
        assert {name: type(value) for name, value in policies[kind][kind].items()} == needs
    assert policies["status_code"]["status_code"]["status_codes"] == ["ERROR"]
    objective = re.search(
        r"^within = ([\d.]+)", (TEMPLATE / "slo.toml.jinja").read_text(), re.MULTILINE
    )
    assert objective
    assert policies["latency"]["latency"]["threshold_ms"] == float(objective[1]) * 1000


@by_name
def test_compose_passes_every_variable_of_a_collector(path: Path) -> None:
    needed = set(re.findall(r"\$\{env:(\w+)\}", path.read_text()))
    option = read(path.parent.parent / "option.yml")
    (service,) = (
        each for each in option["compose"].values() if f"/{path.name}:" in str(each.get("volumes"))
    )
    assert needed <= set(service["environment"])
