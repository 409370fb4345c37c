"""docs/guarantees.md and the tests that it names agree."""

import ast
import re
from pathlib import Path

from tests.generator import ROOT

DOCUMENT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`\s]+\.py)::(test_\w+)`", DOCUMENT.partition("## Figures")[0]))
FIRE = ROOT / "tests" / "fire" / "inside"


def proofs_in(file: Path) -> set[str]:
    """Return the names of the tests in a file."""
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    return {name for name in names if name.startswith("test_")}


def test_every_promise_names_a_test_that_exists() -> None:
    missing = [f"{file}::{name}" for file, name in NAMED if name not in proofs_in(ROOT / file)]
    assert not missing, f"docs/guarantees.md names tests that do not exist: {sorted(missing)}"


def test_each_promise_of_the_readme_names_its_test_or_its_page() -> None:
    """A sentence in bold is a row of the table; one about many promises links to their page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = readme.partition("## What every service does\n")[2].partition("\n\n|")[0]
    table = DOCUMENT.partition("## What the README promises\n")[2].partition("\n## ")[0]
    rows = " ".join(table.lower().split())
    bullets = [" ".join(each.split()) for each in promises.split("\n- ")]
    bold = {re.search(r"\*\*(.+?)\.?\*\*", each)[1]: each for each in bullets if "**" in each}  # type: ignore[index]
    assert len(bold) > 5
    without = [sentence for sentence in bold if f"| {sentence.lower()}" not in rows]
    assert [each for each in without if "](docs/" not in bold[each]] == []


def test_every_test_under_fire_proves_a_promise() -> None:
    files = [file for file in FIRE.glob("*.py") if file.stem != "conftest"]
    tests = {(str(file.relative_to(ROOT)), name) for file in files for name in proofs_in(file)}
    unnamed = [f"{file}::{name}" for file, name in tests - NAMED]
    assert not unnamed, f"docs/guarantees.md has no line for: {sorted(unnamed)}"
