"""The X-Ray collector of a task: its permissions, and its exports, which are those in Compose."""

from typing import Any

import yaml

from tests.conftest import ROOT
from tests.deploy.stack import environment, resources


def test_the_tasks_may_send_segments_and_nothing_else() -> None:
    [policy] = resources("AWS::IAM::Role")["TaskRole"]["Policies"]
    assert [each["Action"] for each in policy["PolicyDocument"]["Statement"]] == [
        "xray:PutTraceSegments"
    ]


def test_the_collector_of_a_task_exports_as_the_one_in_compose() -> None:
    in_compose = yaml.safe_load((ROOT / "compose/xray.yaml").read_text(encoding="utf-8"))
    for task in resources("AWS::ECS::TaskDefinition").values():
        for container in task["ContainerDefinitions"][1:]:
            config: dict[str, Any] = yaml.safe_load(environment(container)["AOT_CONFIG_CONTENT"])
            assert config["exporters"] == in_compose["exporters"]
            [pipeline] = config["service"]["pipelines"].values()
            assert pipeline["exporters"] == ["awsxray"]
            assert set(pipeline["processors"]) == set(config["processors"])
            # What waits for a decision when a task ends would be lost.
            assert "tail_sampling" not in config["processors"]
