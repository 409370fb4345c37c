"""Expressions that backtrack are told from those that do not."""

import pytest

from tests.rules.expressions import backtracks


@pytest.mark.parametrize(
    "expression",
    [
        r"(a+)+",
        r"(a*)*",
        r"(\w+\s*)*",
        r"(.+?)(?:[^a-z]*\1)+",
        r"([a-z]+_)*[a-z_]*",
        r"\d+\.?\d+",
        r"(\d+|x)\d*",
        r"[^\x00]*[^\s][^\x00]*",
    ],
)
def test_repetitions_that_can_match_the_same_characters_backtrack(expression: str) -> None:
    assert backtracks(expression)


@pytest.mark.parametrize(
    "expression",
    [
        r"[a-z]+(_[a-z]+)*",
        r"\d+\.\d+",
        r"(\s*,)*",
        r"(\w+\s+)*",
        r"(?:[^\"\\]|\\.)*",
        r"[\w.+-]++@[\w-]++(?:\.[\w-]++)++",
    ],
)
def test_repetitions_that_are_apart_do_not(expression: str) -> None:
    assert not backtracks(expression)
