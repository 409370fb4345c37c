"""Guessable secrets are refused, and random ones are not."""

import secrets

import pytest
from pydantic import SecretStr

from app.platform.settings import SettingsError
from app.platform.settings.secrets import key_weakness, secret_weakness
from app.settings import Settings, get_settings
from tests.required import REQUIRED

SECRETS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (SecretStr, SecretStr | None)
]
WEAK_KEYS = [
    "short",
    "a" * 64,
    "0123456789abcdef" * 2,
    "1234567890" * 4,
    "fedcba9876543210" * 4,
    "00112233445566778899aabbccddeeff",
    "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
    "qwertyuiopasdfghjklzxcvbnm123456",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9",
    "deadbeef" * 8,
    "correct-horse-correct-horse-correct",
    "my-secret-key-for-production-2026",
    "change-me-change-me-change-me-change-me",
]
WEAK_PASSWORDS = [
    "postgres",
    "change-me",
    "change%20me",
    "app",
    "App2024!",
    "database1",
    "password1",
    "12345678",
    "qwertyuiop",
    "aaaaaaaaaaaa",
    "abcabcabcabc",
    "%3Cyour-password%3E",
]


@pytest.fixture(autouse=True)
def _required_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def reasons(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> list[str]:
    """The lines of the error about a setting, one per variable; none if the value is accepted."""
    monkeypatch.setenv(name, value)
    text = ""
    try:
        get_settings()
    except SettingsError as error:
        text = str(error)
    assert value not in text
    return text.splitlines()[1:]


@pytest.mark.parametrize("key", WEAK_KEYS)
def test_a_guessable_key_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    [line] = reasons(monkeypatch, "SECRET_KEY", key)
    [fallback] = reasons(monkeypatch, "SECRET_KEY_FALLBACKS", f"{secrets.token_hex(32)},{key}")[1:]

    assert line.startswith("  SECRET_KEY: ")
    assert line.endswith("; generate it with `openssl rand -hex 32`")
    assert fallback.startswith("  SECRET_KEY_FALLBACKS: has a key that ")


def test_a_random_key_that_is_short_or_has_a_placeholder_is_refused() -> None:
    key = secrets.token_hex(16)
    assert key_weakness(key) is None
    assert key_weakness(key[:-1]) == "must be 32 random characters or more"
    assert key_weakness(f"change-me-{key}") == "is an example value"


@pytest.mark.parametrize("password", WEAK_PASSWORDS)
@pytest.mark.parametrize("name", [name for name in SECRETS if name.endswith("_url")])
def test_a_guessable_password_in_a_url_is_refused_in_production(
    monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    server = (
        "redis://app:{}@database/0"
        if name == "redis_url"
        else "postgresql://app:{}@server/database"
    )
    url = server.format(password)

    [line] = reasons(monkeypatch, name.upper(), url)
    assert line.startswith(f"  {name.upper()}: has a password that ")
    assert line.endswith("; use a random one")
    monkeypatch.setenv("ENVIRONMENT", "development")
    assert reasons(monkeypatch, name.upper(), url) == []


@pytest.mark.parametrize("name", [name for name in SECRETS if not name.endswith("_url")])
def test_a_placeholder_in_any_other_secret_is_refused_in_production(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    [line] = reasons(monkeypatch, name.upper(), "change-me")
    assert line.startswith(f"  {name.upper()}: ")


@pytest.mark.parametrize("length", [16, 32])
def test_random_secrets_are_accepted(length: int) -> None:
    for _ in range(50):
        assert key_weakness(secrets.token_hex(length)) is None
        assert secret_weakness(secrets.token_urlsafe(length)) is None
        assert secret_weakness(f"redis://:{secrets.token_hex(length)}@redis:6379/0") is None


@pytest.mark.parametrize("url", ["redis://redis:6379/0", "postgresql://app@db/app", "x://["])
def test_a_url_without_a_password_is_accepted(url: str) -> None:
    assert secret_weakness(url) is None
