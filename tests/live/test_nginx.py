"""A generated service below a path prefix of a real nginx, configured as its page says."""

import os
import shutil
from pathlib import Path

import pytest

from tests import generator, suite
from tests.live.containers import apt

INSIDE = Path(__file__).parent / "nginx" / "through_nginx.py"


@pytest.fixture(scope="module")
def nginx() -> None:
    if shutil.which("nginx") or Path("/usr/sbin/nginx").exists():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("nginx is not installed, and can't be installed by this user here")
    apt.install("nginx-light")


@pytest.mark.rotates("slow live tests", shares=2)
@pytest.mark.usefixtures("nginx")
def test_a_service_works_behind_nginx(template: Path, tmp_path: Path) -> None:
    service = generator.render(template, tmp_path / "service")
    shutil.copy(INSIDE, service / "tests" / "system" / "test_through_nginx.py")
    suite.run(service, "tests/system/test_through_nginx.py", options="-q -n 0")
