"""The tests of a generated service, run the way its people do."""

import os
import subprocess
import sys
from pathlib import Path

from tests import generator

UV = [sys.executable, "-m", "uv"]
AGAIN = generator.ROOT / "build" / "second-tries.txt"


def run(service: Path, *tests: str, options: str = "-q -n 2", **environment: str) -> None:
    """Run a service's tests, all unless some are named. Raise `CalledProcessError` when they fail.

    What failed gets a second try, alone: hundreds of tests end processes and cut connections, on
    machines that stall. What needed it is kept in ``build/second-tries.txt``; `.ci/run` shows it.
    """
    given = {**os.environ, **environment, "PYTEST_ADDOPTS": options}
    test = [*UV, "run", "pytest"]
    if subprocess.run([*test, *tests], cwd=service, env=given, check=False).returncode == 0:
        return
    failed = service / ".pytest_cache" / "v" / "cache" / "lastfailed"
    named = failed.read_text(encoding="utf-8") if failed.exists() else ""
    AGAIN.parent.mkdir(exist_ok=True)
    with AGAIN.open("a", encoding="utf-8") as file:
        file.write(f"{service.parent.name}: {' '.join(named.split())}\n")
    given["PYTEST_ADDOPTS"] = "-v"
    last = ["--last-failed", "--last-failed-no-failures", "none"]
    subprocess.run([*test, *last, *tests], cwd=service, env=given, check=True)
