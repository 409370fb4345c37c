"""A copy into a folder that has files writes everything or nothing when nobody can be asked."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MINE = "# Mine\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a hosting service makes of a new repository."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "service")], check=True)
    (tmp_path / "service" / "LICENSE").write_text("Mine.\n")
    return tmp_path / "service"


def copy(template: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``copier copy`` without a terminal."""
    command = [sys.executable, "-m", "copier", "copy", "--trust", "--defaults", *options]
    return subprocess.run(
        [*command, str(template), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_in_the_way_ends_it_before_anything_is_written(template: Path, folder: Path) -> None:
    (folder / "README.md").write_text(MINE)
    done = copy(template, folder)
    assert done.returncode == 1
    assert "Nothing was written" in done.stderr
    assert "README.md" in done.stderr
    assert "--overwrite" in done.stderr
    assert {path.name for path in folder.iterdir()} == {".git", "LICENSE", "README.md"}
    assert (folder / "README.md").read_text() == MINE


def test_overwrite_replaces_it(template: Path, folder: Path) -> None:
    (folder / "README.md").write_text(MINE)
    done = copy(template, folder, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (folder / "README.md").read_text() != MINE
    assert (folder / "LICENSE").read_text() == "Mine.\n"


def test_files_that_are_not_in_the_way_stay(template: Path, folder: Path) -> None:
    done = copy(template, folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "LICENSE").read_text() == "Mine.\n"
    assert (folder / "pyproject.toml").exists()


def put_a_folder(folder: Path) -> None:
    (folder / "README.md").mkdir()


def put_a_file(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "app").write_text(MINE)


def put_a_broken_link(folder: Path) -> None:
    (folder / "README.md").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("put", "options"),
    [
        (put_a_folder, ()),
        (put_a_folder, ("--overwrite",)),
        (put_a_file, ()),
        (put_a_file, ("--overwrite",)),
        (put_a_broken_link, ()),
    ],
)
def test_whatever_is_in_the_way_ends_it_before_anything_is_written(
    template: Path, folder: Path, put: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    put(folder)
    before = sorted(folder.rglob("*"))
    done = copy(template, folder, *options)
    assert done.returncode == 1
    assert "Nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before
