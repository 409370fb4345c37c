"""The collector beside each task: spans go there, it is stopped last, and can't end the service."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from app.platform.observability.tracing import SHUTDOWN_TIMEOUT
from tests.deploy import stack
from tests.deploy.stack import environment, of_gunicorn

TASKS = {
    task["ContainerDefinitions"][0]["Name"]: task
    for task in stack.resources("AWS::ECS::TaskDefinition").values()
}
MIGRATE = TASKS.pop("migrate")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = TASKS[request.param]
    return found


def test_what_runs_for_long_has_a_collector_and_migrations_have_none() -> None:
    assert len(MIGRATE["ContainerDefinitions"]) == 1
    assert {len(task["ContainerDefinitions"]) for task in TASKS.values()} <= {2}


def test_spans_are_sent_to_the_collector(task: dict[str, Any]) -> None:
    service, collector = task["ContainerDefinitions"]
    parameter = environment(service)["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("!Ref ")
    endpoint = urlsplit(stack.PARAMETERS[parameter]["Default"])
    assert (endpoint.hostname, endpoint.port) == ("localhost", 4318)
    assert "127.0.0.1:4318" in str(collector["Environment"])


def test_the_service_outlives_its_collector(task: dict[str, Any]) -> None:
    service, collector = task["ContainerDefinitions"]
    assert service["Essential"] is True
    assert collector["Essential"] is False
    assert collector["RestartPolicy"]["Enabled"] is True
    # The collector is killed at its own limit, which leaves the service what it had without one.
    assert int(task["Memory"]) - collector["Memory"] >= 1024
    assert collector["HealthCheck"]


def test_the_collector_is_stopped_after_the_last_spans(task: dict[str, Any]) -> None:
    """ECS stops containers in the reverse order of their dependencies, each with its own time."""
    service, collector = task["ContainerDefinitions"]
    assert service["DependsOn"] == [{"ContainerName": collector["Name"], "Condition": "START"}]
    assert service["StopTimeout"] > of_gunicorn("graceful_timeout") + SHUTDOWN_TIMEOUT
    assert collector["StopTimeout"] <= 120


def test_the_collectors_image_is_pinned(task: dict[str, Any]) -> None:
    _, collector = task["ContainerDefinitions"]
    image = stack.PARAMETERS[collector["Image"].removeprefix("!Ref ")]["Default"]
    assert image.rpartition(":")[2].count(".") == 2


def test_the_collector_has_no_secret_of_the_service(task: dict[str, Any]) -> None:
    service, collector = task["ContainerDefinitions"]
    secrets = {each["Name"] for each in service["Secrets"]}
    assert secrets.isdisjoint(each["Name"] for each in collector.get("Secrets", []))
