"""Renamed settings: the old variable keeps working for one version, with a warning."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from app.platform.observability import logs
from app.platform.settings import SettingsError, load_settings
from app.platform.settings.renamed import rename_hints
from app.settings import Settings
from tests.commands import run_command
from tests.required import REQUIRED


class Renamed(Settings):
    """Settings of which three have old names."""

    renamed: ClassVar = {
        "old_hosts": "allowed_hosts",
        "old_timeout": "http_timeout",
        "old_secret": "secret_key",
    }


@pytest.fixture(autouse=True)
def _required_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def test_the_old_variable_sets_the_new_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_TIMEOUT", "2.5")
    monkeypatch.setenv("OLD_HOSTS", "a.example, b.example")
    settings = load_settings(Renamed)
    assert settings.http_timeout == 2.5
    assert settings.allowed_hosts == ["a.example", "b.example"]
    assert {"http_timeout", "allowed_hosts"} <= settings.model_fields_set


def test_the_old_variable_works_in_a_dotenv_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("OLD_TIMEOUT=2.5\n")
    monkeypatch.setitem(Renamed.model_config, "env_file", tmp_path / ".env")
    assert load_settings(Renamed).http_timeout == 2.5
    assert rename_hints(Renamed) == ["OLD_TIMEOUT is deprecated: rename it to HTTP_TIMEOUT"]


def test_the_old_variable_of_a_secret_can_name_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(REQUIRED["SECRET_KEY"])
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("OLD_SECRET_FILE", str(tmp_path / "secret"))
    assert load_settings(Renamed).secret_key == SecretStr(REQUIRED["SECRET_KEY"])
    assert rename_hints(Renamed) == ["OLD_SECRET_FILE is deprecated: rename it to SECRET_KEY_FILE"]


def test_the_new_variable_wins_even_from_a_dotenv_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("HTTP_TIMEOUT=3\n")
    monkeypatch.setitem(Renamed.model_config, "env_file", tmp_path / ".env")
    monkeypatch.setenv("OLD_TIMEOUT", "2.5")
    assert load_settings(Renamed).http_timeout == 3


def test_an_invalid_value_of_an_old_variable_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_TIMEOUT", "soon")
    with pytest.raises(SettingsError) as error:
        load_settings(Renamed)
    assert "  HTTP_TIMEOUT: " in str(error.value)
    assert "  OLD_TIMEOUT is deprecated: rename it to HTTP_TIMEOUT" in str(error.value)


def test_a_warning_in_the_startup_log_says_what_to_rename(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLD_TIMEOUT", "2.5")
    logs.setup(FastAPI(), load_settings(Renamed))
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "OLD_TIMEOUT is deprecated: rename it to HTTP_TIMEOUT")
    ]


def test_app_check_says_what_to_rename(environment: dict[str, str]) -> None:
    result = run_command("check", env={**environment, "DB_CONNECTIONS_SPARE": "1"})
    assert result.returncode == 0
    hint = "DB_CONNECTIONS_SPARE is deprecated: rename it to DB_RESERVED_CONNECTIONS"
    assert f"warning  settings     {hint}" in result.stdout


def test_old_names_are_gone_and_new_names_are_settings() -> None:
    fields = Settings.model_fields
    for cls in Settings.__mro__:
        for old, new in vars(cls).get("renamed", {}).items():
            assert old not in fields
            assert new in fields
