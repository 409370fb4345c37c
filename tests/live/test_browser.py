"""The pages of the documentation in Chromium: event streams, WebSockets, uploads to a bucket."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import generator, suite
from tests.live.containers import apt

HERE = Path(__file__).parent / "browser"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("Chromium is not installed, and can't be installed by this user here")
        apt.install("chromium")
        found = shutil.which("chromium")
    assert found
    return found


@pytest.mark.rotates("slow live tests", shares=2)
def test_the_pages_of_the_documentation_work_in_a_browser(
    chromium: str, template: Path, tmp_path: Path
) -> None:
    given = {"preset": "everything", "queue": "postgres", "auth": "session"}
    service = generator.render(template, tmp_path / "service", **given)
    inside = service / "tests/system/test_through_browser.py"
    shutil.copy(HERE / "through_browser.py", inside)
    command = ["run", "--with", "playwright", "pytest", "-q", "-n", "0", str(inside)]
    subprocess.run(
        [*suite.UV, *command],
        cwd=service,
        env={**os.environ, "CHROMIUM": chromium},
        check=True,
    )
