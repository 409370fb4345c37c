"""What the tests do with the template: copy it, render it, and list the answers worth trying."""

import shutil
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import copier
import yaml

from extensions import answers, options

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".local"
)
# Questions that change Python code: every combination of their answers is rendered.
TOGETHER = ("queue", "tracing", "auth", "example")

Answers = dict[str, Any]
Tuple = frozenset[tuple[str, Any]]  # some questions with an answer each


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


def choices() -> dict[str, list[Any]]:
    """Return the answers that each question with a choice allows."""
    found: dict[str, list[Any]] = {}
    for option in options.load():
        if option.question != options.FACT and option.question not in options.SEVERAL:
            found.setdefault(option.question, []).append(option.choice)
    for name, question in answers.questions().items():
        if question["type"] == "bool":
            found[name] = [True, False]
        elif isinstance(question.get("choices"), list):
            found[name] = list(question["choices"])
    return found


def combinations_to_render() -> tuple[list[Answers], list[Answers]]:
    """Return rows that cover every pair of any two answers, and what ``TOGETHER`` needs besides."""
    values = choices()
    pairs = list(_cover(values, _tuples(values, *combinations(sorted(values), 2))))
    together = _tuples(values, TOGETHER)
    besides = {each for each in together if not any(each <= set(row.items()) for row in pairs)}
    return pairs, list(_cover(values, besides))


def combinations_to_install() -> dict[str, Answers]:
    """Return a smaller array, by name: the default, the minimal one, every pair of ``TOGETHER``."""
    values = {name: found for name, found in choices().items() if name in TOGETHER}
    named_ones = {preset: _proposed(preset) for preset in ("standard", "minimal")}
    covered = {pair for row in named_ones.values() for pair in combinations(sorted(row.items()), 2)}
    open_pairs = {
        each
        for each in _tuples(values, *combinations(sorted(values), 2))
        if tuple(sorted(each)) not in covered
    }
    return named_ones | {named(row): row for row in _cover(values, open_pairs)}


def _proposed(preset: str) -> Answers:
    proposed = options.defaults(options.load(), preset)
    return {name: proposed[name] for name in TOGETHER}


def _tuples(values: dict[str, list[Any]], *groups: tuple[str, ...]) -> set[Tuple]:
    """Return every combination of answers to the questions of each group."""
    return {
        frozenset(zip(names, each, strict=True))
        for names in groups
        for each in product(*(values[name] for name in names))
    }


def _cover(values: dict[str, list[Any]], uncovered: set[Tuple]) -> Iterator[Answers]:
    """Yield rows, each of which takes the largest open tuple and adds what covers most others."""
    while uncovered:
        largest = max(uncovered, key=_size_then_name)
        row = dict(largest)
        for name in sorted(set(values) - set(row)):
            row[name] = max(values[name], key=_newly_covered(row, name, uncovered))
        items = set(row.items())
        uncovered = {each for each in uncovered if not each <= items}
        yield row


def _size_then_name(items: Tuple) -> tuple[int, list[str]]:
    return len(items), sorted(map(str, items))


def _newly_covered(row: Answers, name: str, uncovered: set[Tuple]) -> Callable[[Any], int]:
    def count(value: Any) -> int:
        items = {*row.items(), (name, value)}
        return sum(each <= items for each in uncovered)

    return count


def named(answers: Answers) -> str:
    """Return a short name for a combination: its answers, in a fixed order."""
    return "-".join(str(answers[name]).lower() for name in sorted(answers))


def files(project: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files of a project that git would track, by their suffix when some are given."""
    skipped = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
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
