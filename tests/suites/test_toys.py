"""An option that somebody adds as one folder gives a service that passes; nothing else is touched.

``tests/toys`` has a queue, an auth style, a deploy target and a feature. They are laid beside the
options of a copy of the template, and what they render runs the suites of their ports as those are.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import generator, suite

TOYS = generator.ROOT / "tests" / "toys"
# Of the tests of worker processes, those of what a transport does; `make rows` runs all of them.
SUITES = (
    *("platform/auth", "platform/jobs", "deploy", "tides", "test_documentation.py"),
    "system/jobs" if os.environ.get("WHOLE") else "system/jobs/test_processes.py",
    *(["system/test_contract.py"] * bool(os.environ.get("WHOLE"))),
)


@pytest.mark.timeout(900)
def test_a_queue_an_auth_style_a_target_and_a_feature_are_one_folder_each(tmp_path: Path) -> None:
    root = generator.copy_of_template(tmp_path / "template")
    for toy in TOYS.iterdir():
        shutil.copytree(toy, root / "template" / toy.name)
    given = {"queue": "list", "auth": "tickets", "deploy": "shelf"}
    service = generator.render(root, tmp_path / "service", **given, features=["tides"])

    for command in (
        ["sync", "--quiet"],
        ["run", "ruff", "check"],
        ["run", "ruff", "format", "--check"],
        ["run", "mypy"],
    ):
        subprocess.run([*suite.UV, *command], cwd=service, check=True)
    suite.run(service, *(f"tests/{name}" for name in SUITES))
