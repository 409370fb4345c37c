"""docs/capacity.md: its settings exist, and its formulas are those of the code."""

import re

import pytest

from app.platform.server import checks
from app.settings import Settings
from tests.conftest import ROOT

PAGE = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
LOAD = (ROOT / "tools/load.py").read_text(encoding="utf-8")
NUMBERS = re.compile(r"`([\d. */()+]+) = (\d+)`")


def test_it_names_settings_and_variables_that_exist() -> None:
    names = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", PAGE)) - {"SYS_PTRACE"}
    known = {name.upper() for name in Settings.model_fields}
    assert {name for name in names if not name.startswith("LOAD_")} <= known
    assert {n for n in names if n.startswith("LOAD_")} <= set(re.findall(r"LOAD_[A-Z0-9_]+", LOAD))


def test_thresholds_on_the_page_are_the_defaults() -> None:
    for name, value in re.findall(r"`(LOAD_[A-Z0-9_]+)` \(([\d.]+)", PAGE):
        assert f'os.environ.get("{name}") or {value})' in LOAD


async def test_connections_are_counted_as_app_check_counts_them(settings: Settings) -> None:
    [formula] = re.findall(r"`(MAX_REPLICAS \*[^`]+)`", PAGE)
    values = {"max_replicas": 2, "web_concurrency": 3, "db_pool_size": 4, "db_max_overflow": 1}
    budget = await checks._connection_budget(settings.model_copy(update=values), 3)
    [total] = re.findall(r"connections = (\d+)", budget)
    assert eval(formula.lower(), {}, values) == int(total)


@pytest.mark.parametrize(("expression", "result"), NUMBERS.findall(PAGE))
def test_the_examples_figures_add_up(expression: str, result: str) -> None:
    assert -int(-eval(expression) // 1) == int(result)
