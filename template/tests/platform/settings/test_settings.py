"""Settings: where values come from, and how an invalid environment is refused."""

import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.platform.settings import SettingsError
from app.settings import Settings, get_settings
from tests.required import REQUIRED


@pytest.fixture(autouse=True)
def _required_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def settings_error() -> str:
    with pytest.raises(SettingsError) as error:
        get_settings()
    return str(error.value)


def test_a_valid_environment_is_read() -> None:
    settings = get_settings()
    assert settings.environment == "production"
    assert settings.database_url.get_secret_value() == REQUIRED["DATABASE_URL"]


@pytest.mark.parametrize("name", [name for name in REQUIRED if name != "ENVIRONMENT"])
def test_production_requires_a_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    assert f"\n  {name}: is missing" in settings_error()


def test_no_validator_replaces_another() -> None:
    """Pydantic keeps one validator of each name, of all classes that ``Settings`` inherits from."""
    classes = [vars(each) for each in Settings.__mro__ if each.__module__.startswith("app.")]
    names = Counter(
        name
        for attributes in classes
        for name, value in attributes.items()
        if not name.startswith("__") and (callable(value) or isinstance(value, classmethod))
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_all_invalid_variables_are_listed_without_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("DATABASE_URL", "mysql://app:hunter2@db/app")
    monkeypatch.setenv("REDIS_URL", "cache:hunter2")
    monkeypatch.setenv("PORT", "eighty")
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, *")
    monkeypatch.setenv("CORS_ALLOW_CREDENTIALS", "true")
    message = settings_error()
    invalid = re.findall(r"^  (\w+): ", message, flags=re.MULTILINE)
    assert sorted(invalid) == [
        "CORS_ALLOW_CREDENTIALS",
        "DATABASE_URL",
        "PORT",
        "REDIS_URL",
        "SECRET_KEY",
    ]
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "secret", ["", "short", "change-me-change-me-change-me-change-me", "a" * 64, "0123456789abcde"]
)
def test_a_weak_secret_is_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("SECRET_KEY", secret)
    assert "SECRET_KEY" in settings_error()


def test_a_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(REQUIRED["SECRET_KEY"] + "\n")
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SECRET_KEY_FILE", str(file))
    assert get_settings().secret_key.get_secret_value() == REQUIRED["SECRET_KEY"]


def test_an_empty_secret_file_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("\n")
    monkeypatch.setenv("MIGRATION_DATABASE_URL_FILE", str(tmp_path / "secret"))
    assert get_settings().migration_database_url is None


SECRETS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (SecretStr, SecretStr | None)
]


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_can_come_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    assert {"secret_key", "database_url", "redis_url", "migration_database_url"} <= {*SECRETS}
    # Valid for every secret that is not required: a database's URL, a list of pairs, an opaque key.
    value = REQUIRED.get(name.upper()) or f"{REQUIRED['DATABASE_URL']}?ssl=require"
    (tmp_path / "secret").write_text(f"{value}\n")
    monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(f"{name.upper()}_FILE", str(tmp_path / "secret"))
    assert getattr(get_settings(), name).get_secret_value() == value


def test_a_missing_secret_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / ("missing" * 10)))
    assert "can't be read: No such file" in settings_error()


def test_secrets_are_not_shown() -> None:
    settings = get_settings()
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert REQUIRED["SECRET_KEY"] not in shown
    assert "kW7%2FzR2mQ9" not in shown


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_common_database_schemes_select_asyncpg(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://app:kW7%2FzR2mQ9@db/app")
    assert get_settings().database_url.get_secret_value() == REQUIRED["DATABASE_URL"]


def test_every_setting_has_a_description() -> None:
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []
