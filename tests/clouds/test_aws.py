"""The stacks for AWS pass what checks them without an account, whatever else was answered."""

from collections.abc import Callable
from pathlib import Path

import pytest

from extensions import options
from tests import generator
from tests.clouds import validators

Check = Callable[[Path], str]
TARGETS = [o.choice for o in options.load() if "fargate" in o.provides]
# With and without processes beside the API; with either collector beside each task.
OTHERWISE = [{"queue": "celery", "tracing": "datadog"}, {"queue": "none", "tracing": "xray"}]
CHECKS = [validators.cfn_lint, validators.checkov, validators.yamllint, validators.shellcheck]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=OTHERWISE, ids=lambda answers: answers["queue"])
def project(
    request: pytest.FixtureRequest,
    target: str,
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp(target) / "service"
    return generator.render(template, folder, deploy=target, **request.param)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_found(project: Path, check: Check) -> None:
    assert check(project) == ""


@pytest.mark.parametrize(
    ("check", "file", "old", "new", "said"),
    [
        (validators.cfn_lint, "stack.yaml", "StopTimeout: 40", "StopTimeout: soon", "integer"),
        (validators.cfn_lint, "stack.yaml", "!Ref Cluster", "!Ref Clutter", "Clutter"),
        (validators.checkov, "stack.yaml", "RetentionInDays: 30", "Tags: []", "CKV_AWS_66"),
        (validators.yamllint, "stack.yaml", "Outputs:\n", "Outputs: \n", "trailing-spaces"),
        (validators.shellcheck, "ci.sh", "migrate() {", "migrate() {\n    rm $x", "SC2086"),
    ],
)
def test_a_fault_is_found(
    template: Path, tmp_path: Path, check: Check, file: str, old: str, new: str, said: str
) -> None:
    broken = generator.render(template, tmp_path / "service", deploy=TARGETS[-1])
    path = broken / "deploy" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert said in check(broken)
