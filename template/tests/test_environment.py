""".env.example tells the truth about the settings."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.required import REQUIRED

GIVEN: dict[str, Any] = {name.lower(): value for name, value in REQUIRED.items()}
LINES = (Path(__file__).parents[1] / ".env.example").read_text().splitlines()
SHOWN = {
    match[1]: match[2]
    for line in LINES
    if (match := re.fullmatch(r"#([A-Z][A-Z0-9_]*)=(.*)", line))
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_copying_it_changes_nothing() -> None:
    assert [line for line in LINES if line and not line.startswith("#")] == []


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_a_setting_and_its_default(name: str) -> None:
    field = name.lower()
    assert field in Settings.model_fields
    if value := SHOWN[name]:
        shown = Settings(**{**GIVEN, field: value})
        if not Settings.model_fields[field].is_required():
            assert getattr(shown, field) == getattr(Settings(**GIVEN), field)


def test_what_has_to_be_set_is_shown() -> None:
    required = {n.upper() for n, field in Settings.model_fields.items() if field.is_required()}
    assert required - set(SHOWN) == set()
