"""What is handed to Cloud Run is clean YAML, and the script that does so a clean script.

There is no schema for its documents that works without an account: the service's own
``tests/deploy/test_cloud_run.py`` checks their fields.
"""

from pathlib import Path

import pytest
import yaml

from tests import generator
from tests.clouds import validators

OTHERWISE = [{"queue": "celery", "tracing": "otlp"}, {"queue": "none", "tracing": "none"}]


@pytest.fixture(scope="module", params=OTHERWISE, ids=lambda answers: answers["queue"])
def project(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("cloud_run") / "service"
    return generator.render(template, folder, deploy="cloud_run", **request.param)


def test_nothing_is_found(project: Path) -> None:
    assert validators.yamllint(project) == ""
    assert validators.shellcheck(project) == ""


def test_processes_beside_the_api_are_pools_where_there_are_some(project: Path) -> None:
    documents = yaml.safe_load_all((project / "deploy/run.yaml").read_text())
    kinds = [document["kind"] for document in documents]
    beside = "cronsim" in (project / "pyproject.toml").read_text()  # of the scheduler
    assert kinds == ["Job", "Service", *["WorkerPool"] * (2 if beside else 0)]
