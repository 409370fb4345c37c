"""Whose word is taken for where a request comes from: real requests to the real server."""

import httpx2
import pytest
from redis import Redis

from app.settings import Settings
from tests.system.serving import Serve

# The proxy appends the address that it saw to whatever the client sent: the last counts.
FORWARDED = ["198.51.100.1", "198.51.100.2", "192.0.2.1, 198.51.100.2"]


@pytest.mark.parametrize(
    ("trusted", "answers"),
    [("127.0.0.1", [404, 404, 429]), ("192.0.2.0/24, 2001:db8::1", [404, 429, 429])],
)
def test_forwarded_addresses_are_trusted_from_known_proxies_only(
    serve: Serve, settings: Settings, trusted: str, answers: list[int]
) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()
    server = serve(TRUSTED_PROXIES=trusted, RATE_LIMIT="1/hour", WEB_CONCURRENCY="1")

    def ask(forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return httpx2.get(f"{server.url}/api/v1/nothing", headers=headers, timeout=20).status_code

    assert [ask(forwarded) for forwarded in FORWARDED] == answers
