"""How templates are written: slots in Python files, and text that every format reads alike."""

import json
import re
from functools import cache
from typing import Any

from jinja2.ext import Extension

SLOT = re.compile(r"^( *)# \{\{ (\w+) \}\}\n", re.MULTILINE)


class PythonSlots(Extension):
    """Lets a Python file of the template hold a list in a comment of its own: ``# {{ names }}``.

    Each item becomes a line, as far indented as the comment; an empty list leaves nothing. So every
    Python file of the template parses, lints and formats as it stands.
    """

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters["indented"] = lambda lines, by: "".join(f"{by}{x}\n" for x in lines)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        if not (name or "").endswith(".py.jinja"):
            return source
        return SLOT.sub(r"{{ \2 | indented('\1') }}", source)


class Once(Extension):
    """Compiles each text once: Copier asks for each part of each path, again and again."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.from_string = cache(environment.from_string)


class Filters(Extension):
    """Adds the filters ``quoted`` and ``plain``."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters.update(quoted=quoted, plain=plain)


def quoted(text: str) -> str:
    """Return ``text`` as a double-quoted string that TOML, YAML and JSON all read alike."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def plain(text: str) -> str:
    """Return ``text`` so that a paragraph of Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>$]|^[#+-])", r"\\\1", text)
