"""The rows of docs/timeouts.md."""

from dataclasses import dataclass

from tests.conftest import ROOT


@dataclass(frozen=True)
class Row:
    limit: str
    setting: str
    seconds: float
    order: str
    result: str


def rows() -> dict[str, Row]:
    """Return the rows by what is in their second column, without backticks."""
    lines = (ROOT / "docs/timeouts.md").read_text(encoding="utf-8").splitlines()
    tables = [
        line
        for line in lines
        if line.startswith("|") and not line.startswith(("|---", "| limit on"))
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]
    found = [Row(c[0], c[1].replace("`", ""), float(c[2]), c[3], c[4]) for c in cells]
    assert len({row.setting for row in found}) == len(found), "a setting has two rows"
    return {row.setting: row for row in found}
