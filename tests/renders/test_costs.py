"""A feature that is off costs nothing: the service has the same code as if it did not exist."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from tests import generator, matrix

# Where features are registered; their lines are imports, and entries of lists and of bases.
REGISTERING = {"src/app/main.py", "src/app/api.py", "src/app/platform/settings/__init__.py"}
IMPORT = re.compile(r"from [\w.]+ import .*|import [\w.]+|\)")  # or the end of one
ENTRY = re.compile(r" +[\w.]+(\(auth\.current_user\))?,")


def test_a_service_without_features_runs_the_code_of_one_with_all_of_them(tmp_path: Path) -> None:
    template = generator.copy_of_template(tmp_path / "template")
    chosen = [each for each in matrix.choices() if each.startswith(matrix.FEATURE)]
    features = [each.removeprefix(matrix.FEATURE) for each in chosen]
    without = generator.render(template, tmp_path / "without", features=[])
    having = generator.render(template, tmp_path / "having", features=features)
    differing = set()
    for path in _code(without):
        mine, other = (folder / path for folder in (without, having))
        assert other.exists(), f"{path} is not in a service with features"
        if mine.read_text() != other.read_text():
            differing.add(path)
            assert list(_more_than_registered(mine, other)) == []
    assert differing <= REGISTERING
    assert set(_code(having)) - set(_code(without)), "no feature brought any code"


def _code(service: Path) -> list[str]:
    files = [service / "gunicorn.conf.py", *(service / "src").rglob("*.py")]
    return [str(path.relative_to(service)) for path in files]


def _more_than_registered(mine: Path, other: Path) -> Iterator[str]:
    """Return the lines of a difference that are no registration of a feature."""
    before, after = (path.read_text().splitlines() for path in (mine, other))
    for line in difflib.ndiff(before, after):
        sign, text = line[0], line[2:]
        is_import = bool(IMPORT.fullmatch(text))
        if not (sign in " ?" or is_import or (sign == "+" and ENTRY.fullmatch(text))):
            yield line
