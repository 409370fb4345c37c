"""Alertmanager accepts its configuration, and tells those that an alert concerns."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests import generator
from tests.alerts import tools
from tests.live.containers.service import free_port


@pytest.fixture(scope="session")
def smallest(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("alerts") / "smallest"
    return generator.render(template, target, preset="minimal", queue="none")


def configuration(service: Path) -> Path:
    return service / "compose/alertmanager.yml"


def test_amtool_accepts_the_configuration(service: Path, smallest: Path) -> None:
    for each in (service, smallest):
        tools.amtool("check-config", configuration(each))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=ServiceDown severity=page", "page"),
        ("alertname=AvailabilityErrorBudgetBurn severity=page slo=availability", "page"),
        ("alertname=AvailabilityErrorBudgetBurn severity=ticket slo=availability", "ticket"),
        ("alertname=AnythingElse", "ticket"),  # nothing is lost for want of a severity
    ],
)
def test_a_severity_has_a_receiver(service: Path, labels: str, receiver: str) -> None:
    told = tools.amtool(
        "config", "routes", "test", "--config.file", configuration(service), *labels.split()
    )
    assert told.strip() == receiver


def test_every_alert_of_an_inhibition_exists(service: Path) -> None:
    alerts = {
        rule["alert"]
        for path in (service / "compose/rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    for rule in yaml.safe_load(configuration(service).read_text())["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            name, _, value = matcher.replace("=~", "=").partition("=")
            if name == "alertname":
                for named in value.strip('"').split("|"):
                    assert named in alerts or named.endswith("ErrorBudgetBurn")


@pytest.fixture(scope="module")
def alertmanager(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The arguments with which amtool talks to a running Alertmanager."""
    folder = tmp_path_factory.mktemp("alertmanager")
    secrets = {f"/run/secrets/alert_{name}_url": folder / name for name in ("page", "ticket")}
    text = configuration(service).read_text()
    for path, file in secrets.items():
        file.write_text("")
        text = text.replace(path, str(file))
    (folder / "alertmanager.yml").write_text(text)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        tools.alertmanager(),
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _until_ready(f"{url}/-/ready")
        yield [f"--alertmanager.url={url}"]
    finally:
        process.terminate()
        process.wait(30)


def _until_ready(url: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert time.monotonic() < end, "Alertmanager did not start"
            time.sleep(0.05)
        else:
            return


def matcher(word: str) -> str:
    """``a=b`` as ``a="b"``."""
    name, _, value = word.partition("=")
    return f'{name}="{value}"'


PAGE, TICKET = "severity=page", "severity=ticket"
BURN = "alertname=AvailabilityErrorBudgetBurn slo=availability"
# What fires, and whether something that fires already keeps it quiet.
INHIBITIONS = [
    (f"{BURN} {PAGE}", f"{BURN} {TICKET}", True),
    (f"{BURN} {PAGE}", f"alertname=LatencyErrorBudgetBurn slo=latency {TICKET}", False),
    (f"alertname=DependencyDown dependency=postgres {PAGE}", f"{BURN} {TICKET}", True),
    (f"alertname=DependencyDown dependency=postgres {PAGE}", f"{BURN} {PAGE}", False),
    (f"alertname=DependencyDown dependency=redis {TICKET}", f"{BURN} {TICKET}", False),
    (
        f"alertname=DependencyDown dependency=postgres {PAGE}",
        f"alertname=DependencyDown dependency=redis {TICKET}",
        False,
    ),
    (
        f"alertname=DependencyDown dependency=postgres {PAGE}",
        f"alertname=MetricSourceDown source=jobs {TICKET}",
        True,
    ),
    (
        f"alertname=DependencyDown dependency=redis {TICKET}",
        f"alertname=MetricSourceDown source=jobs {TICKET}",
        False,
    ),
    (f"alertname=ServiceDown {PAGE}", f"alertname=InstanceDown job=api instance=a {TICKET}", True),
    (f"alertname=ServiceDown {PAGE}", f"alertname=InstanceDown job=worker {TICKET}", False),
    (f"alertname=WorkerDown {PAGE}", f"alertname=JobsOverdue {TICKET}", True),
    (f"alertname=WorkerDown {PAGE}", f"alertname=DeadJobs {TICKET}", False),
    (
        f"alertname=DatabasePoolExhausted instance=a {PAGE}",
        f"alertname=DatabasePoolWaiting instance=a {TICKET}",
        True,
    ),
    (
        f"alertname=DatabasePoolExhausted instance=a {PAGE}",
        f"alertname=DatabasePoolWaiting instance=b {TICKET}",
        False,
    ),
]


@pytest.mark.parametrize(("source", "target", "quiet"), INHIBITIONS)
def test_what_is_said_already_is_not_said_again(
    alertmanager: list[str], source: str, target: str, quiet: bool, request: Any
) -> None:
    namespace = f"namespace=n{abs(hash(request.node.name))}"
    for labels in (source, target):
        tools.amtool(*alertmanager, "alert", "add", namespace, *labels.split())
    filters = [("filter", matcher(word)) for word in (namespace, *target.split())]
    url = alertmanager[0].removeprefix("--alertmanager.url=")
    with urllib.request.urlopen(f"{url}/api/v2/alerts?{urlencode(filters)}", timeout=5) as answer:
        (alert,) = json.load(answer)
    assert bool(alert["status"]["inhibitedBy"]) == quiet
