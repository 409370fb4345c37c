"""Write the tables of the documentation: `make tables`.

docs/matrix.md comes from what the tests recorded in build/results.jsonl; that of docs/updating.md
from the cases that the tests of updates try; the figures of docs/guarantees.md from what the tests
under fire noted in build/figures.jsonl, at full size where that was run.
"""

import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests import matrix  # noqa: E402 (the repository is no package that is installed)
from tests.updates import happens  # noqa: E402

SUITE = "test_the_service_passes_its_own_tests"
QUESTIONS = ("queue", "auth", "deploy", "tracing", "ci", "example", "python")
INTRODUCTION = """\
# What was tried

Made by `make tables`, from what the tests recorded; nothing here is typed. The rows are computed
from the option folders ([tests/matrix.py](../tests/matrix.py)): every pair of any two answers is in
one of them, and every triple of queue, auth and deploy target. Each row is rendered, searched for
leftovers, linted, formatted and type-checked. Rows with own tests were also installed and ran
those, on real servers: all of them where a queue is new, else those of what is new in that row;
"on GitHub" leaves them to the repository's workflow, where each row runs all of its own. What is
there is what was recorded last, so FAILED stays until that row has run again.
"""

Result = dict[str, Any]


def main() -> None:
    _write_updates(ROOT / "docs" / "updating.md")
    _write_matrix(ROOT / "docs" / "matrix.md")
    _write_figures(ROOT / "docs" / "guarantees.md")


def _write_updates(document: Path) -> None:
    before, after = document.read_text().split("| what | happens |\n|---|---|\n")
    rows = "".join(f"| {case.what} | {case.comes_to} |\n" for case in happens.CASES)
    rest = after.split("\n\n", 1)[1]
    document.write_text(f"{before}| what | happens |\n|---|---|\n{rows}\n{rest}")


def _write_figures(document: Path) -> None:
    noted = ROOT / "build" / "figures.jsonl"
    last: dict[tuple[str, str], Result] = {}
    for line in noted.read_text().splitlines() if noted.exists() else ():
        result = json.loads(line)
        key = (result["test"], result["service"])
        before = last.get(key, result)
        if result["full"] >= before["full"]:
            kept = before["figures"] if result["full"] == before["full"] else {}
            last[key] = {**result, "figures": {**kept, **result["figures"]}}
    if not last:
        return
    start, head, _ = document.read_text().partition("| test | service | figures |\n|---|---|---|\n")
    rows = "".join(_figures(*key, result) for key, result in sorted(last.items()))
    document.write_text(start + head + rows)


def _figures(test: str, service: str, result: Result) -> str:
    figures = "; ".join(
        f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in result["figures"].items()
    )
    return f"| `{test}` | {service}{'' if result['full'] else ' (small)'} | {figures} |\n"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _write_matrix(document: Path) -> None:
    lines = (ROOT / "build" / "results.jsonl").read_text().splitlines()
    last = {(r["row"], r["test"], r["when"]): r for r in map(json.loads, lines)}
    by_row: dict[str, list[Result]] = defaultdict(list)
    for result in last.values():
        by_row[result["row"]].append(result)
    rows = [(row, by_row[row.name]) for row in matrix.matrix()]
    table = [_line(row, results) for row, results in rows]
    text = "\n".join([INTRODUCTION, _summary(rows), "", *_head(), *table, ""])
    document.write_text(text)


def _summary(rows: list[tuple[matrix.Row, list[Result]]]) -> str:
    results = [result for _, each in rows for result in each]
    suites = [r for r in results if SUITE in r["test"] and r["when"] == "call"]
    renders = [r for r in results if SUITE not in r["test"]]
    failed = sum(result["outcome"] == "failed" for result in results)
    revision = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(revision, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return (
        f"{len(rows)} rows; {sum(bool(each) for _, each in rows)} rendered and checked in "
        f"{_minutes(renders)}, {len(suites)} own suites in {_minutes(suites)}; {failed} failures. "
        f"Commit {commit.strip()}, {datetime.now(UTC):%Y-%m-%d}, {platform.system()}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs; times are of one process."
    )


def _minutes(results: list[Result]) -> str:
    return f"{sum(result['seconds'] for result in results) / 60:.0f} min"


def _head() -> list[str]:
    names = [*QUESTIONS, "rendered and checked", "own tests"]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _line(row: matrix.Row, results: list[Result]) -> str:
    suites = [r for r in results if SUITE in r["test"]]
    renders = [r for r in results if SUITE not in r["test"]]
    answers = [_word(row.answers[name]) for name in QUESTIONS]
    features = [
        name.removeprefix(matrix.FEATURE)
        for name, answer in row.answers.items()
        if name.startswith(matrix.FEATURE) and answer
    ]
    answers[-1] += "".join(f", {feature}" for feature in features)
    return f"| {' | '.join([*answers, _outcome(renders), _outcome(suites)])} |"


def _word(answer: object) -> str:
    return ("yes" if answer else "no") if isinstance(answer, bool) else str(answer)


def _outcome(results: list[Result]) -> str:
    if not results:
        return "on GitHub"
    seconds = sum(result["seconds"] for result in results)
    failed = any(result["outcome"] == "failed" for result in results)
    return f"{'FAILED' if failed else 'passed'}, {seconds:.0f} s"


if __name__ == "__main__":
    main()
