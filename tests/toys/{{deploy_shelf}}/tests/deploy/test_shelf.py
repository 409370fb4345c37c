"""What was deployed is on the shelf."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_image_gets_onto_the_shelf(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "deploy/ci.sh"), "registry/name:tag"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (tmp_path / "shelf").read_text() == "registry/name:tag\n"
