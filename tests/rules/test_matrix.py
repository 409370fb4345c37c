"""The matrix has every pair and triple that it promises, of options that are added later, too."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from extensions import options
from tests import generator, matrix


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with a few options more."""
    template = generator.copy_of_template(tmp_path_factory.mktemp("extended")) / "template"
    for name in ("queue_toy", "auth_toy", "deploy_toy"):
        generator.manifest(template / f"{{{{{name}}}}}")
    for name in ("feature_chat", "feature_files"):
        generator.manifest(template / f"{{{{{name}}}}}", presets=["everything"])
    return template


@pytest.fixture(scope="module")
def rows(extended: Path) -> list[matrix.Row]:
    return matrix.matrix(extended)


def tried(rows: list[matrix.Row], *questions: str) -> set[tuple[Any, ...]]:
    return {tuple(row.answers[question] for question in questions) for row in rows}


def test_every_pair_of_answers_is_tried(extended: Path, rows: list[matrix.Row]) -> None:
    values = matrix.choices(extended)
    for pair in combinations(values, 2):
        assert tried(rows, *pair) == set(product(*(values[name] for name in pair))), pair


def test_every_triple_of_queue_auth_and_deploy_is_tried(
    extended: Path, rows: list[matrix.Row]
) -> None:
    values = matrix.choices(extended)
    questions = ("queue", "auth", "deploy")
    assert tried(rows, *questions) == set(product(*(values[name] for name in questions)))


def test_every_option_is_tried_in_every_run(extended: Path, rows: list[matrix.Row]) -> None:
    """An option that is in no run would be a promise that nobody looks after."""
    available = options.load(extended)
    laid_in = {
        option.name for row in rows if row.always for option in options.choose(available, row.given)
    }
    assert laid_in == {option.name for option in available}


def test_the_presets_are_tried_as_they_are_proposed(rows: list[matrix.Row]) -> None:
    presets = [row for row in rows if row.name in matrix.PRESETS]
    assert [row.always for row in presets] == [True, True, True]
    assert presets[1].given["queue"] == "none"


def test_features_are_tried_alone_together_and_not_at_all(rows: list[matrix.Row]) -> None:
    tried = [row.given["features"] for row in rows]
    assert [each for each in tried if len(each) == 1 and "chat" in each]
    assert [each for each in tried if len(each) == 1 and "files" in each]
    everything = next(row for row in rows if row.name == "everything")
    assert everything.always
    assert {"chat", "files"} <= {*everything.given["features"]}
    assert [] in tried


def test_each_row_is_in_one_shard() -> None:
    names = [name for shard in matrix.shards() for name in shard.split(" or ")]
    assert sorted(names) == sorted(row.name for row in matrix.matrix())
    for name, other in product(names, repeat=2):
        assert name == other or name not in other, "pytest -k would choose both"
