"""`app migration` writes what is missing, once, in a copy of this project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODEL = """
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Parcel(Base):
    __tablename__ = "parcels_of_a_test"

    id: Mapped[int] = mapped_column(primary_key=True)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", ".squawk.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def write(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", "migration", *arguments],
        cwd=project,
        env={"PYTHONPATH": str(project / "src"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def versions(project: Path) -> set[Path]:
    return set((project / "migrations/versions").glob("*.py"))


def test_a_new_table_gets_one_migration(copy: Path) -> None:
    (copy / "src/app/parcels.py").write_text(MODEL)
    with (copy / "src/app/main.py").open("a") as main:
        main.write("\nimport app.parcels\n")
    before = versions(copy)

    written = write(copy, "add parcels")
    assert written.returncode == 0
    assert "It would block traffic" not in written.stderr
    [new] = versions(copy) - before
    assert new.name.endswith("_add_parcels.py")
    assert 'create_table("parcels_of_a_test"' in "".join(new.read_text().split())

    again = write(copy, "add parcels again")
    assert "nothing to write" in again.stdout
    assert versions(copy) - before == {new}


PART = """
revision, down_revision, branch_labels, depends_on = "toys_0001", None, ("toys",), None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
"""


def test_one_stays_good_when_a_part_that_it_came_after_goes(copy: Path) -> None:
    part = copy / "migrations/versions/toys_0001_dolls.py"
    part.write_text(PART)
    before = versions(copy)
    assert write(copy, "--empty", "move data").returncode == 0
    [new] = versions(copy) - before
    assert '"toys_0001"' in new.read_text()

    part.unlink()
    again = write(copy, "nothing new")
    assert again.returncode == 0, again.stderr
    assert "nothing to write" in again.stdout


def test_one_that_would_keep_others_waiting_is_flagged(copy: Path) -> None:
    model = copy / "src/app/parcels.py"
    model.write_text(MODEL)
    with (copy / "src/app/main.py").open("a") as main:
        main.write("\nimport app.parcels\n")
    write(copy, "add parcels")
    model.write_text(MODEL + "    weight: Mapped[int] = mapped_column(index=True)\n")
    flagged = write(copy, "weigh parcels")
    assert flagged.returncode == 0
    assert "Use `concurrently` to avoid blocking writes" in flagged.stderr
    assert "It would block traffic" in flagged.stderr


def test_an_empty_one_is_written_on_request(copy: Path) -> None:
    before = versions(copy)
    assert write(copy, "--empty", "move data").returncode == 0
    assert len(versions(copy) - before) == 1


def test_it_has_to_say_what_it_does(copy: Path) -> None:
    refused = write(copy, " ")
    assert refused.returncode == 2
    assert "Give a message that says what it does" in refused.stderr
