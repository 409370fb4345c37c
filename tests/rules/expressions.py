"""Regular expressions that backtrack: their time grows with a power of the length of the text."""

import importlib
from typing import Any

parser: Any = importlib.import_module("re._parser")
compiler: Any = importlib.import_module("re._compiler")

Characters = frozenset[str]
ALL = frozenset(map(chr, range(256)))
ONE = {parser.LITERAL, parser.NOT_LITERAL, parser.ANY, parser.IN}
REPEATS = {parser.MAX_REPEAT, parser.MIN_REPEAT}


def backtracks(expression: str) -> bool:
    """Whether two repetitions without a limit can match the same characters, one after the other.

    Within each other they do so as well: in ``(a+)+``. What follows an atomic group or a possessive
    quantifier is taken to be apart from what is before, and the branches of a ``|`` to be distinct.
    """
    return _walk(parser.parse(expression), frozenset())[0]


def _walk(items: Any, before: Characters) -> tuple[bool, Characters]:
    """Whether the sequence backtracks, and what the repetitions at its end match.

    ``before``: what the repetitions right before it match.
    """
    found = False
    for item in items:
        operator, argument = item
        bodies = _bodies(item)
        if operator in ONE and not _characters([item], items.state) & before:
            before = frozenset()
        elif operator in REPEATS and argument[1] is parser.MAXREPEAT:
            characters = _characters(bodies[0], items.state)
            first, end = _walk(bodies[0], before)
            again, _ = _walk(bodies[0], end)
            plain = len(bodies[0]) == 1 and not _bodies(bodies[0][0])
            found |= first or again or (plain and bool(characters & before))
            before = characters if argument[0] else characters | before
        elif bodies:
            results = [_walk(body, before) for body in bodies]
            found |= any(result for result, _ in results)
            optional = operator in REPEATS and argument[0] == 0
            before = frozenset[str]().union(
                before if optional else (), *(end for _, end in results)
            )
    return found, before


def _bodies(item: tuple[Any, Any]) -> list[Any]:
    """The sequences within an item: of a group, of a repetition, of each branch."""
    operator, argument = item
    if operator in REPEATS:
        return [argument[2]]
    if operator is parser.SUBPATTERN:
        return [argument[3]]
    return list(argument[1]) if operator is parser.BRANCH else []


def _characters(items: Any, state: Any) -> Characters:
    """All characters that the sequence has a place for."""
    found = frozenset[str]()
    for item in items:
        if item[0] in ONE:
            match = compiler.compile(parser.SubPattern(state, [item])).fullmatch
            found |= {character for character in ALL if match(character)}
        elif item[0] is parser.GROUPREF:
            found |= ALL
        else:
            for body in _bodies(item):
                found |= _characters(body, state)
    return found
