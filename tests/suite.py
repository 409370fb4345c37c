"""The tests of a generated service, run as its owners run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

UV = [sys.executable, "-m", "uv"]


def run(service: Path, *tests: str, options: str = "-q", **environment: str) -> None:
    """Run a service's tests, all fast ones unless some are named.

    Raises ``CalledProcessError`` when they fail.
    """
    given = {**os.environ, **environment, "PYTEST_ADDOPTS": options}
    subprocess.run([*UV, "run", "pytest", *tests], cwd=service, env=given, check=True)


def raise_limit_of_exports(service: Path) -> None:
    """Let one caller start more exports at once than the example allows, as the races do."""
    router = service / "src/app/items/router.py"
    text = router.read_text()
    assert '"10/minute"' in text
    router.write_text(text.replace('"10/minute"', '"100000/minute"'))


def files_of_feature(name: str, template: Path) -> list[str]:
    """The test files that a feature brings, in its folder and in those within it."""
    folder = template / f"{{{{feature_{name}}}}}"
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("test_*.py*"))
    there = {re.sub(r"^(\{\{\w+\}\}/)*|\.jinja$", "", path) for path in paths}
    return sorted(path for path in there if path.startswith("tests/"))
