"""The client address behind a proxy in ``TRUSTED_PROXIES``, with the real server."""

import httpx2
import pytest
from redis import Redis

from app.settings import Settings
from tests.system.serving import Serve

# A proxy appends the client's address to the header that the client sent: the last one counts.
FORWARDED = ["198.51.100.1", "198.51.100.2", "192.0.2.1, 198.51.100.2"]


@pytest.mark.parametrize(
    ("trusted", "statuses"),
    [("127.0.0.1", [404, 404, 429]), ("192.0.2.0/24, 2001:db8::1", [404, 429, 429])],
)
def test_forwarded_addresses_are_trusted_from_known_proxies_only(
    serve: Serve, settings: Settings, trusted: str, statuses: list[int]
) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.flushdb()
    server = serve(TRUSTED_PROXIES=trusted, RATE_LIMIT="1/hour", WEB_CONCURRENCY="1")

    def get_status(forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return httpx2.get(f"{server.url}/api/v1/unknown", headers=headers, timeout=20).status_code

    assert [get_status(forwarded) for forwarded in FORWARDED] == statuses
