"""`app migration` writes what is missing, once, in a copy of this project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import ROOT

MODEL = """
from enum import Enum

from sqlalchemy import CheckConstraint, Enum as Enumerated
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.data.database import Base


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Parcel(Base):
    __tablename__ = "parcels_of_a_test"
    __table_args__ = (CheckConstraint("weight > 0", name="weight"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    weight: Mapped[int] = mapped_column()
    size: Mapped[Size] = mapped_column()
    colour: Mapped[Colour] = mapped_column(
        Enumerated(Colour, native_enum=False, create_constraint=True, length=9)
    )
"""


@dataclass
class Parcels:
    """A project that has the model, what `app migration` said of it, and the migration."""

    project: Path
    written: subprocess.CompletedProcess[str]
    migration: Path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(ROOT, tmp_path)


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    project = copy_project(ROOT, tmp_path_factory.mktemp("parcels"))
    before = versions(project)
    add_model(project, MODEL)
    written = write(project, "add parcels")
    [migration] = versions(project) - before
    return Parcels(project, written, migration)


@pytest.fixture
def with_parcels(parcels: Parcels, tmp_path: Path) -> Path:
    return copy_project(parcels.project, tmp_path)


def copy_project(source: Path, target: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")  # other processes are writing to it
    for folder in ("src", "migrations"):
        shutil.copytree(source / folder, target / folder, ignore=ignored)
    for name in ("pyproject.toml", "gunicorn.conf.py", ".squawk.toml"):
        shutil.copy(source / name, target)
    return target


def write(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(project, "migration", *arguments, env={"PATH": os.environ["PATH"]})


def run(project: Path, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=project,
        env={**env, "PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def add_model(project: Path, model: str) -> None:
    (project / "src/app/parcels.py").write_text(model)
    main = project / "src/app/main.py"
    if "app.parcels" not in main.read_text():
        main.write_text(main.read_text() + "\nimport app.parcels\n")


def versions(project: Path) -> set[Path]:
    return set((project / "migrations/versions").glob("*.py"))


def test_a_new_table_gets_one_migration(parcels: Parcels, with_parcels: Path) -> None:
    assert parcels.written.returncode == 0
    assert "It would block traffic" not in parcels.written.stderr
    assert parcels.migration.name.endswith("_add_parcels.py")
    assert 'create_table("parcels_of_a_test"' in "".join(parcels.migration.read_text().split())

    before = versions(with_parcels)
    again = write(with_parcels, "add parcels again")
    assert "nothing to write" in again.stdout
    assert versions(with_parcels) == before


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


def test_one_that_would_keep_others_waiting_is_flagged_and_the_next_is_not(
    with_parcels: Path,
) -> None:
    add_model(with_parcels, MODEL + "    height: Mapped[int] = mapped_column(index=True)\n")
    flagged = write(with_parcels, "measure parcels")
    assert flagged.returncode == 0
    assert "Use `concurrently` to avoid blocking writes" in flagged.stderr
    assert "It would block traffic" in flagged.stderr
    harmless = write(with_parcels, "--empty", "move data")
    assert (harmless.returncode, harmless.stderr) == (0, "")


def test_changed_enums_checks_and_primary_keys_are_seen(with_parcels: Path) -> None:
    before = versions(with_parcels)
    changed = MODEL.replace('"large"\n', '"large"\n    HUGE = "huge"\n')
    changed = changed.replace('"blue"\n', '"blue"\n    GREEN = "green"\n')
    changed = changed.replace("weight > 0", "weight > 1 OR shape IS NULL")
    weight = "weight: Mapped[int] = mapped_column("
    changed = changed.replace(weight, weight + "primary_key=True")
    shape = 'class Shape(Enum):\n    ROUND = "round"\n\n\nclass Parcel'
    changed = changed.replace("class Parcel", shape)
    add_model(with_parcels, changed + "    shape: Mapped[Shape | None] = mapped_column()\n")

    assert write(with_parcels, "add members").returncode == 0
    [new] = versions(with_parcels) - before
    upgrade = new.read_text().partition("def downgrade")[0]
    for expected in ("HUGE", "GREEN", "weight > 1", "ROUND", '["id", "weight"]'):
        assert expected in upgrade
    assert "nothing to write" in write(with_parcels, "add nothing").stdout


def test_two_first_migrations_are_both_applied_and_can_be_merged(
    copy: Path,
    parcels: Parcels,
    create_database: Callable[..., URL],
    environment: dict[str, str],
) -> None:
    before = versions(copy)
    write(copy, "--empty", "move data")
    [his] = versions(copy) - before
    add_model(copy, MODEL)
    shutil.copy(parcels.migration, copy / "migrations/versions")

    url = create_database().render_as_string(hide_password=False)
    env = {**environment, "DATABASE_URL": url}
    migrated = run(copy, "migrate", env=env)
    assert migrated.returncode == 0, migrated.stderr

    refused = write(copy, "add more")
    assert refused.returncode == 1
    assert "Your migrations have 2 heads: " in refused.stderr
    assert his.name in refused.stderr
    assert parcels.migration.name in refused.stderr
    assert 'Merge them with `app migration --merge "merge heads"`' in refused.stderr

    assert write(copy, "--merge", "merge heads").returncode == 0
    assert "one head" in write(copy, "--merge", "merge again").stdout
    assert "nothing to write" in write(copy, "add nothing").stdout
    assert run(copy, "migrate", env=env).returncode == 0


def test_migrations_that_contradict_each_other_are_one_sentence(
    copy: Path, environment: dict[str, str]
) -> None:
    for number in range(2):
        (copy / f"migrations/versions/toys_000{number}.py").write_text(
            PART.replace("toys_0001", f"toys_000{number}")
        )
    for failed in (write(copy, "add more"), run(copy, "migrate", env=environment)):
        assert failed.returncode == 1
        assert failed.stderr.startswith("Error: Branch name 'toys' in revision toys_000")
        assert len(failed.stderr.splitlines()) == 1
