"""The value of each setting: what can't work is refused when it is read, in one sentence."""

import re

import pytest

from app.platform.settings import SettingsError
from app.settings import Settings, get_settings
from tests.required import REQUIRED

NUMBERS = (int, float, int | None, float | None)
NUMERIC = sorted(n for n, field in Settings.model_fields.items() if field.annotation in NUMBERS)


@pytest.fixture(autouse=True)
def _required_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def assert_refused(name: str, hint: str = "") -> None:
    with pytest.raises(SettingsError) as error:
        get_settings()
    _, line = str(error.value).splitlines()
    assert line.startswith(f"  {name}: ")
    assert hint in line


@pytest.mark.parametrize("name", NUMERIC)
def test_a_number_has_bounds(name: str) -> None:
    """Without one, ``inf`` and ``1e300`` are accepted, and fail where they are used."""
    bounds = Settings.model_fields[name].metadata
    assert any(hasattr(bound, "ge") or hasattr(bound, "gt") for bound in bounds), "a minimum"
    assert any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in bounds), "a maximum"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-1", "x"])
def test_a_number_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in NUMERIC:
        monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SettingsError) as error:
        get_settings()
    assert {name.upper() for name in NUMERIC} <= set(re.findall(r"  (\w+): ", str(error.value)))


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("ALLOWED_HOSTS", "https://api.example.com", "write it as api.example.com"),
        ("ALLOWED_HOSTS", "api.example.com:8000", "without scheme, port or path"),
        ("ALLOWED_HOSTS", "a.example.com, api.example.com.", "api.example.com. is not a host"),
        ("ALLOWED_HOSTS", "api.example.com/", "is not a host"),
        ("ALLOWED_HOSTS", ".example.com", "*.example.com"),
        ("ALLOWED_HOSTS", "api.*.com", "is not a host"),
        ("ALLOWED_HOSTS", "bücher.example", "is not a host"),
        ("ALLOWED_HOSTS", "::1", "is not a host"),
        ("ALLOWED_HOSTS", ",", "is empty"),
        ("REQUEST_ID_HOSTS", "*, https://api.internal", "https://api.internal is not a host"),
        ("TRUSTED_PROXIES", "caddy", "caddy is not an address"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.0/8"),
        ("TRUSTED_PROXIES", "10.0.0.0/33", "is not an address"),
        ("TRUSTED_PROXIES", "10.0.0.1:80", "is not an address"),
        ("TRUSTED_PROXIES", "*, 10.0.0.1", "list it alone"),
        ("CORS_ORIGINS", "https://App.Example.com", "https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com:443", "write it as https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com:99999", "https://app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/", "https://app.example.com"),
        ("CORS_ORIGINS", "ftp://app.example.com", "https://app.example.com"),
        ("CORS_ORIGINS", "null", "https://app.example.com"),
        ("RATE_LIMIT", "0/minute", "100/minute"),
        ("RATE_LIMIT", "1000001/second", "100000 requests a second"),
        ("RATE_LIMIT", "100 per minute", "100/minute"),
        ("METRICS_PORT", "8000", "is PORT"),
        ("REDIS_URL", "redis://cache:6379/cache", "a number after the last slash"),
        ("REDIS_URL", "redis://cache:port", "redis://host:6379/0"),
        ("REDIS_URL", "redis://", "redis://host:6379/0"),
        ("REDIS_URL", "redis://[::1", "redis://host:6379/0"),
        ("REDIS_URL", "unix://", "redis://host:6379/0"),
        ("REDIS_URL", "redis://my cache:6379/0", "redis://host:6379/0"),
        ("DATABASE_URL", "postgresql://app@db:port/app", "postgresql+asyncpg://"),
        ("DATABASE_URL", "postgresql://app@db/app?sslmode=on", "verify-full"),
        ("DATABASE_URL", "postgresql://app@db/app?channel_binding=require", "channel_binding"),
    ],
)
def test_a_value_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)
    assert_refused(name, hint)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_HOSTS", "api.example.com, *.example.org, localhost, 127.0.0.1, [::1], my_api"),
        ("ALLOWED_HOSTS", "xn--bcher-kva.example, *"),
        ("REQUEST_ID_HOSTS", "*, *.example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32, ::1, 192.0.2.7"),
        ("TRUSTED_PROXIES", "*"),
        ("CORS_ORIGINS", "https://app.example.com, http://localhost:5173, http://[::1]:3000"),
        ("RATE_LIMIT", "1000000/minute"),
        ("RATE_LIMIT", "100000/second"),
        ("RATE_LIMIT", "10/15 minutes"),
        ("METRICS_PORT", "9000"),
        ("REDIS_URL", "rediss://user:Zq%407fKw93nLx@cache:6380/15"),
        ("REDIS_URL", "redis://[::1]"),
        ("REDIS_URL", "unix:///run/redis.sock"),
    ],
)
def test_a_value_that_works_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    get_settings()


def test_a_number_that_can_be_off_is_off_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    off = "; 0: off"
    names = [n for n in NUMERIC if (Settings.model_fields[n].description or "").endswith(off)]
    assert names
    for name in names:
        monkeypatch.setenv(name.upper(), "0")
    settings = get_settings()
    assert {getattr(settings, name) for name in names} == {0}


def test_libpqs_sslmode_is_passed_to_asyncpg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://app@db/app?sslmode=require")
    url = get_settings().database_url.get_secret_value()
    assert url == "postgresql+asyncpg://app@db/app?ssl=require"
