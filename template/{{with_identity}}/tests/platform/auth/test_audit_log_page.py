"""docs/audit-log.md lists every action that the platform records."""

import ast
import re
from collections.abc import Iterator

from tests.conftest import ROOT


def recorded() -> Iterator[str]:
    """The actions in the code: the text that is given to ``record``, by each of its callers."""
    for path in (ROOT / "src/app/platform").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "audit_log" in text:
            for call in ast.walk(ast.parse(text)):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("record"):
                    yield from (each.value for each in call.args if is_text(each))


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_page_lists_every_action_and_no_other() -> None:
    page = (ROOT / "docs/audit-log.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `(\w+)` \|", page)
    assert sorted(listed) == sorted(set(recorded()))
