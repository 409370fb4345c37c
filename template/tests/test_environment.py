""".env.example: it lists settings with their real defaults."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.required import REQUIRED

REQUIRED_VALUES: dict[str, Any] = {name.lower(): value for name, value in REQUIRED.items()}
LINES = (Path(__file__).parents[1] / ".env.example").read_text().splitlines()
EXAMPLES = {
    match[1]: match[2]
    for line in LINES
    if (match := re.fullmatch(r"#([A-Z][A-Z0-9_]*)=(.*)", line))
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_an_unchanged_copy_sets_nothing() -> None:
    assert [line for line in LINES if line and not line.startswith("#")] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_setting_with_its_default(name: str) -> None:
    field = name.lower()
    assert field in Settings.model_fields
    if value := EXAMPLES[name]:
        settings = Settings(**{**REQUIRED_VALUES, field: value})
        if not Settings.model_fields[field].is_required():
            assert getattr(settings, field) == getattr(Settings(**REQUIRED_VALUES), field)


def test_every_required_setting_is_listed() -> None:
    required = {n.upper() for n, field in Settings.model_fields.items() if field.is_required()}
    assert required - set(EXAMPLES) == set()
