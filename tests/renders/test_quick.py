"""The Copier of the tests writes what Copier does."""

import subprocess
import sys
from pathlib import Path

from tests import generator


def test_a_render_is_the_same_without_what_copier_repeats(template: Path, tmp_path: Path) -> None:
    quick = generator.render(template, tmp_path / "quick", preset="everything")
    command = [sys.executable, "-m", "copier", "copy", "--trust", "--defaults", "--quiet"]
    command += ["--data", "preset=everything", str(template), str(tmp_path / "real")]
    subprocess.run(command, check=True)
    quick_files, real_files = (
        {path.relative_to(root): path.read_bytes() for path in generator.files(root)}
        for root in (quick, tmp_path / "real")
    )
    assert quick_files == real_files
