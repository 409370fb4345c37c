"""The tests of a generated service, run the way its people do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tests import generator

UV = [sys.executable, "-m", "uv"]
AGAIN = generator.ROOT / "build" / "second-tries.txt"


def run(service: Path, *tests: str, options: str = "-q -n 2", **environment: str) -> None:
    """Run a service's tests, all unless some are named. Raise `CalledProcessError` when they fail.

    What failed gets a second try, alone: hundreds of tests end processes and cut connections, on
    machines that stall. What needed it, and why, is kept in ``build/second-tries.txt``; `.ci/run`
    shows it.
    """
    report = service.parent / "first-try.xml"
    report.unlink(missing_ok=True)
    given = {**os.environ, **environment, "PYTEST_ADDOPTS": f"{options} --junit-xml={report}"}
    test = [*UV, "run", "pytest"]
    if subprocess.run([*test, *tests], cwd=service, env=given, check=False).returncode == 0:
        return
    AGAIN.parent.mkdir(exist_ok=True)
    with AGAIN.open("a", encoding="utf-8") as file:
        file.writelines(f"{service.parent.name}: {failure}\n" for failure in _failures(report))
    given["PYTEST_ADDOPTS"] = "-v"
    last = ["--last-failed", "--last-failed-no-failures", "none"]
    subprocess.run([*test, *last, *tests], cwd=service, env=given, check=True)


def _failures(report: Path) -> Iterator[str]:
    """Yield what failed in a run of pytest, and how."""
    if not report.exists():
        yield "pytest ended without a report"
        return
    for case in ElementTree.parse(report).iter("testcase"):
        for problem in (*case.iterfind("failure"), *case.iterfind("error")):
            yield f"{case.get('classname')}::{case.get('name')}\n{problem.text}"
