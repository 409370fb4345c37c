"""A generated service works through PgBouncer in transaction mode, with its prepared statements."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import generator

UV = [sys.executable, "-m", "uv"]
INSIDE = Path(__file__).parent / "pgbouncer" / "through_pgbouncer.py"


@pytest.fixture(scope="module")
def pgbouncer() -> None:
    if shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("PgBouncer is not installed, and can't be installed by this user here")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(
        ["apt-get", "install", "-qq", "--no-install-recommends", "pgbouncer"],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=True,
    )


@pytest.mark.usefixtures("pgbouncer")
def test_a_service_works_through_pgbouncer(template: Path, tmp_path: Path) -> None:
    service = generator.render(template, tmp_path / "service")
    shutil.copy(INSIDE, service / "tests" / "test_through_pgbouncer.py")
    subprocess.run([*UV, "sync", "--quiet"], cwd=service, check=True)
    test = [*UV, "run", "pytest", "-q", "tests/test_through_pgbouncer.py"]
    subprocess.run(test, cwd=service, check=True)
