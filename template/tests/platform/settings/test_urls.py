"""URLs in settings: what no client could connect to is refused, and nothing raises."""

import pytest

from app.platform.settings.urls import split_url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://*.example.com",
        "https://two words.example.com",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "https://api.example.com:0",
        "https://[::1",
        "https://[api.example.com]",
    ],
)
def test_a_value_that_is_no_url_is_refused(url: str) -> None:
    assert split_url(url, "http", "https") is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://API.example.com/v1", "api.example.com"),
        ("http://my_api:8000", "my_api"),
        ("http://[::1]:8000/v1", "::1"),
        ("http://api.default.svc.cluster.local.", "api.default.svc.cluster.local."),
    ],
)
def test_a_url_is_split(url: str, host: str) -> None:
    parts = split_url(url, "http", "https")
    assert parts
    assert parts.hostname == host
