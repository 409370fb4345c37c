"""The matrix: which answers are tried together, computed from the option folders.

A covering array has every pair of any two answers in some row, and every triple of ``TRIPLES``; a
feature is an answer of its own, chosen or not. Each feature is also tried alone, and all of them
together. A few rows that have every single answer are tried always; ``python -m tests.matrix``
lists all of them in shards, as the workflow on GitHub takes them.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from extensions import answers, options

# What is deployed, how callers are known and what runs jobs meet in the same files.
TRIPLES = ("auth", "deploy", "queue")
PRESETS = ("standard", "minimal", "everything")
# What these change is small, and has tests of its own.
LIGHT = ("tracing", "ci", "python")
FEATURE = "feature "  # a feature is a question of its own here: is it chosen?
SHARDS = 20  # as many jobs as GitHub runs at once, for free

Answers = dict[str, Any]
Tuple = frozenset[tuple[str, Any]]  # some questions with an answer each


def choices(template: Path = options.TEMPLATE) -> dict[str, list[Any]]:
    """Return the answers that each question with a choice allows."""
    found: dict[str, list[Any]] = {}
    for option in options.load(template):
        if option.question in options.SEVERAL:
            found[FEATURE + option.choice] = [False, True]
        elif option.question != options.FACT:
            found.setdefault(option.question, []).append(option.choice)
    for name, question in answers.questions().items():
        if question["type"] == "bool":
            found[name] = [True, False]
        elif isinstance(question.get("choices"), list):
            found[name] = list(question["choices"])
    return found


@dataclass(frozen=True)
class Row:
    """Some answers, and whether they are among the few that every run tries.

    ``new``: the questions with an answer that no row before it has.
    """

    name: str
    answers: Answers
    always: bool
    new: frozenset[str]

    @property
    def given(self) -> Answers:
        """The answers as Copier takes them."""
        return given(self.answers)


def given(row: Answers) -> Answers:
    """Return the answers as Copier takes them: the features that are chosen as one list."""
    plain = {name: answer for name, answer in row.items() if FEATURE not in name}
    chosen = [name.removeprefix(FEATURE) for name in row if name not in plain]
    features = [name for name in chosen if row[FEATURE + name]]
    return plain | ({"features": features} if chosen else {})


def matrix(template: Path = options.TEMPLATE) -> list[Row]:
    """Return the presets, the few rows that are tried always, and the rest of the array."""
    values = choices(template)
    presets = [proposed(template, preset, values) for preset in PRESETS]
    rows = covering_rows(values, [*presets, *alone(presets[1], values)])
    heavy = some_rows(rows, presets, besides=LIGHT)
    available = options.load(template)
    some = some_rows(rows, heavy, lambda row: set(_meetings(row, available)))
    ordered = [*some, *(row for row in rows if row not in some)]
    found, known = [], set[Any]()
    for row in ordered:
        questions = {item: {item[0]} for item in row.items()} | _meetings(row, available)
        new = [names for item, names in questions.items() if item not in known]
        name = row.get("preset") or named(row)
        found.append(Row(name, row, row in some, frozenset().union(*new)))
        known |= set(questions)
    return found


def _meetings(row: Answers, available: tuple[options.Option, ...]) -> dict[str, set[str]]:
    """Return the folders in a folder that a row has, each with the questions that meet in it."""
    chosen = options.choose(available, given(row))
    variables = {option.variable: {option.question} for option in chosen}
    for option in chosen:
        for fact in option.provides:
            variables.setdefault(f"{options.FACT}_{fact}", set()).add(option.question)
    return {
        inner.name: {
            question for name in inner.name.split("/") for question in variables.get(name, ())
        }
        & set(row)
        for inner in chosen
        if inner.outer
    }


def alone(minimal: Answers, values: dict[str, list[Any]]) -> list[Answers]:
    """Return a row for each feature, in the service that has nothing else."""
    ground = {name: minimal[name] for name in values}
    return [ground | {name: True} for name in values if name.startswith(FEATURE)]


def covering_rows(values: dict[str, list[Any]], first: list[Answers]) -> list[Answers]:
    """Return ``first``, and rows for every other pair of two answers and triple of ``TRIPLES``."""
    wanted = _tuples(values, *combinations(sorted(values), 2), TRIPLES)
    wanted = {each for each in wanted if not any(each <= set(row.items()) for row in first)}
    return [*first, *_cover(values, wanted)]


def some_rows(
    rows: list[Answers],
    first: list[Answers],
    also: Callable[[Answers], set[Any]] = lambda _: set(),
    besides: tuple[str, ...] = (),
) -> list[Answers]:
    """Return ``first``, and as few of ``rows`` as have every answer that those lack.

    Answers to the questions of ``besides`` may be missing; ``also``: what else a row has that some
    row must have.
    """
    some = list(first)
    answers: set[Any] = {
        frozenset({item}) for row in rows for item in row.items() if item[0] not in besides
    }
    answers |= {each for row in rows for each in also(row)}
    parts = {id(row): _parts(row) | also(row) for row in rows}
    while missing := answers - set[Any]().union(*(parts[id(row)] for row in some)):
        seen = set[Any]().union(*(parts[id(row)] for row in some))
        some.append(
            max(
                rows,
                key=lambda row: (len(parts[id(row)] & missing), len(parts[id(row)] - seen)),
            )
        )
    return some


def _parts(row: Answers) -> set[Tuple]:
    """Return each answer of a row, and each pair of them."""
    items = [*row.items()]
    return {frozenset(each) for size in (1, 2) for each in combinations(items, size)}


def proposed(template: Path, preset: str, values: dict[str, list[Any]]) -> Answers:
    """Return the row of somebody who chooses a preset and then presses Enter."""
    by_preset = options.defaults(options.load(template), preset)
    by_question = {name: q.get("default") for name, q in answers.questions().items()}
    features = by_preset.get("features", [])
    return {
        name: name.removeprefix(FEATURE) in features
        if name.startswith(FEATURE)
        else by_preset.get(name, by_question.get(name))
        for name in values
    } | {"preset": preset}


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
    """Return a short name for a row: its answers, in a fixed order."""
    return "-".join(_word(name, answers[name]) for name in sorted(answers))


def _word(name: str, answer: Any) -> str:
    if isinstance(answer, bool):
        return ("with_" if answer else "no_") + name.removeprefix(FEATURE)
    return f"py{answer}" if name == "python" else str(answer)


def shards() -> list[str]:
    """Return an expression for ``pytest -k`` for each shard: its share of the rows."""
    names = [row.name for row in matrix()]
    return [" or ".join(names[n::SHARDS]) for n in range(min(SHARDS, len(names)))]


if __name__ == "__main__":
    json.dump(shards(), sys.stdout)
