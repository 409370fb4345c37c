"""Extensions of Jinja: slots in Python files, and text that every format reads alike."""

import ast
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.ext import Extension

SLOT = re.compile(r"^( *)# \{\{ (\w+) \}\}\n", re.MULTILINE)
IMPORTS = re.compile(r"^# \{\{ (\w+_imports) \}\}\n((?:.+\n|\n(?=(?:#.*\n)*from ))*)", re.MULTILINE)
LINE_LENGTH = 100  # of a generated service


class PythonSlots(Extension):
    """Slots for lists in Python files, written as a comment: ``# {{ names }}``.

    Each item becomes a line, indented like the comment; an empty list leaves nothing. So every
    Python file of the template parses, lints and formats as it stands. A slot whose name ends with
    ``_imports`` stands above ``from`` imports and is merged with them, in the order that Ruff asks
    for.
    """

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters["indented"] = lambda lines, by: "".join(f"{by}{x}\n" for x in lines)
        environment.filters["merged_imports"] = merged_imports

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        if not (name or "").endswith(".py.jinja"):
            return source
        merged = r"{% filter merged_imports %}{{ \1 | indented('') }}\2{% endfilter +%}"
        return SLOT.sub(r"{{ \2 | indented('\1') }}", IMPORTS.sub(merged, source))


def merged_imports(text: str) -> str:
    """The ``from`` imports of ``text``, merged by module and sorted.

    A comment stays above the statement that it stands above.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    comments: defaultdict[str, str] = defaultdict(str)
    lines, end = text.splitlines(keepends=True), 0
    for statement in ast.parse(text).body:
        if not isinstance(statement, ast.ImportFrom) or not statement.module:
            raise ValueError(f"not a `from` import: {ast.unparse(statement)}")
        names[statement.module] |= {ast.unparse(alias) for alias in statement.names}
        comments[statement.module] += "".join(lines[end : statement.lineno - 1])
        end = statement.end_lineno or end
    return "".join(comments[name] + _from_imports(name, names[name]) for name in sorted(names))


def _from_imports(module: str, names: set[str]) -> str:
    """One statement for all names, and one for each that has an alias, as Ruff sorts them."""
    aliases = {name for name in names if " as " in name}
    statements = [{alias} for alias in aliases] + [names - aliases] * (names != aliases)
    return "".join(_from_import(module, ordered) for ordered in sorted(map(_ordered, statements)))


def _ordered(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.isupper(), name.islower(), name))


def _from_import(module: str, ordered: list[str]) -> str:
    line = f"from {module} import {', '.join(ordered)}\n"
    if len(line) <= LINE_LENGTH + 1:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")\n"


class Once(Extension):
    """A cache of compiled templates: Copier compiles each part of each path again and again."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.from_string = cache(environment.from_string)


class Filters(Extension):
    """The filters ``quoted``, ``plain`` and ``from_anywhere``."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters.update(quoted=quoted, plain=plain, from_anywhere=from_anywhere)


def quoted(text: str) -> str:
    """``text`` as a double-quoted string that TOML, YAML and JSON all read alike."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def plain(text: str) -> str:
    """``text`` escaped so that a paragraph of Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>$]|^[#+-])", r"\\\1", text)


def from_anywhere(source: str) -> str:
    """A template's address, with a relative path made absolute."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source
