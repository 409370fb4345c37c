"""The dashboards: a real Prometheus answers each of their queries about a real service."""

import os
import shutil
from pathlib import Path

import pytest

from tests import generator, suite
from tests.live.containers import apt

INSIDE = Path(__file__).parent / "prometheus" / "through_dashboards.py"


@pytest.fixture(scope="module")
def prometheus() -> None:
    if shutil.which("prometheus"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("Prometheus is not installed, and can't be installed by this user here")
    apt.install("prometheus")


@pytest.mark.rotates("slow live tests", shares=2)
@pytest.mark.usefixtures("prometheus")
def test_every_panel_has_data(template: Path, tmp_path: Path) -> None:
    given = {"preset": "everything", "queue": "postgres", "tracing": "tempo"}
    service = generator.render(template, tmp_path / "service", **given)
    shutil.copy(INSIDE, service / "tests" / "test_through_dashboards.py")
    suite.run(service, "tests/test_through_dashboards.py", options="-q")
