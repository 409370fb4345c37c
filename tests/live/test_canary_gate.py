"""The gate of a canary, and what scales workers: a real Prometheus answers about a real service."""

import os
import shutil
from pathlib import Path

import pytest

from tests import generator, suite
from tests.live.containers import apt

INSIDE = Path(__file__).parent / "prometheus" / "through_prometheus.py"


@pytest.fixture(scope="module")
def prometheus() -> None:
    if shutil.which("prometheus"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("Prometheus is not installed, and can't be installed by this user here")
    apt.install("prometheus")


@pytest.mark.rotates("slow live tests", shares=2)
@pytest.mark.usefixtures("prometheus")
def test_the_gate_sees_what_a_version_does(template: Path, tmp_path: Path) -> None:
    service = generator.render(template, tmp_path / "service", deploy="kubernetes")
    shutil.copy(INSIDE, service / "tests" / "test_through_prometheus.py")
    suite.run(service, "tests/test_through_prometheus.py", options="-q")
