"""What the tests do with the template: copy it, render it, and look through what came out."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import yaml

ROOT = Path(__file__).parent.parent
CACHES = {"__pycache__", ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".local", "build", *CACHES)


def copy_of_template(to: Path) -> Path:
    """Copy what Copier reads, without git, so that the working tree is what gets rendered."""
    shutil.copytree(ROOT / "template", to / "template", ignore=LEFT_OUT)
    shutil.copytree(ROOT / "extensions", to / "extensions", ignore=LEFT_OUT)
    shutil.copy(ROOT / "copier.yml", to)
    return to


def render(template: Path, to: Path, **given: Any) -> Path:
    """Render a project at ``to``; what is not given here has its default."""
    copier.run_copy(str(template), to, data=given, defaults=True, unsafe=True, quiet=True)
    return to


def files(project: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files of a project that git would track, by their suffix when some are given."""
    skipped = {".git", ".venv", *CACHES}
    for path in sorted(project.rglob("*")):
        wanted = path.suffix in suffixes or not suffixes
        if wanted and path.is_file() and not skipped & set(path.relative_to(project).parts):
            yield path


def manifest(folder: Path, **changes: Any) -> Path:
    """Write an option's folder with an ``option.yml``; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"label": "Toy", "help": "a toy; costs nothing", **changes})
    (folder / "option.yml").write_text(text)
    return folder
