"""A generated service works through PgBouncer in transaction mode, with its prepared statements."""

import os
import shutil
from pathlib import Path

import pytest

from tests import generator, suite
from tests.live.containers import apt

INSIDE = Path(__file__).parent / "pgbouncer" / "through_pgbouncer.py"


@pytest.fixture(scope="module")
def pgbouncer() -> None:
    if shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("PgBouncer is not installed, and can't be installed by this user here")
    apt.install("pgbouncer")


@pytest.mark.usefixtures("pgbouncer")
def test_a_service_works_through_pgbouncer(template: Path, tmp_path: Path) -> None:
    service = generator.render(template, tmp_path / "service")
    suite.raise_limit_of_exports(service)
    shutil.copy(INSIDE, service / "tests" / "test_through_pgbouncer.py")
    suite.run(service, "tests/test_through_pgbouncer.py", options="-q")
