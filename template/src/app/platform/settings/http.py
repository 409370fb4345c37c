"""Settings of incoming HTTP: hosts, proxies, CORS, rate limits, request limits."""

import re
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.rates import OptionalRate, Rate
from app.platform.settings.sources import CommaSeparated
from app.platform.settings.timeouts import Pairs
from app.platform.settings.urls import host_of, is_host, is_network, split_url

DocsAccess = Literal["off", "admin", "open"]

OWN_PATHS = ("api", "docs", "health", "metrics", "openapi.json")


class HttpSettings(BaseSettings):
    """Hosts, proxies, CORS, rate limits and request limits."""

    shorter_than: ClassVar[Pairs] = (("rate_limit_timeout", "request_timeout"),)

    allowed_hosts: CommaSeparated = Field(
        ["*"], description="Accepted Host headers, comma-separated"
    )
    root_path: str = Field(
        "", description="Path prefix under which a proxy serves the API, such as /shop"
    )
    trusted_proxies: CommaSeparated = Field(
        ["127.0.0.1"],
        description="Proxies whose X-Forwarded-* headers are trusted, comma-separated",
    )
    docs: DocsAccess | None = Field(
        None,
        description="Who may read /docs and /openapi.json: off, admin (callers with that scope) or"
        " open; unset: off in staging and production, else open",
    )
    cors_origins: CommaSeparated = Field([], description="Allowed CORS origins, comma-separated")
    cors_allow_credentials: bool = Field(
        False, description="Whether cross-origin requests may carry cookies"
    )

    rate_limit: OptionalRate = Field(
        Rate(600, 60), description="Requests per client to the API, such as 600/minute, or off"
    )
    rate_limit_fail_open: bool = Field(
        True,
        description="While Redis is unavailable: true counts per process, false answers 503",
    )
    rate_limit_timeout: float = Field(
        1, gt=0, le=60, description="Seconds to wait for Redis when counting a request"
    )

    max_body_size: int = Field(
        1_048_576,
        ge=1,
        le=1_073_741_824,
        description="Maximum bytes of a request body or WebSocket message",
    )
    request_timeout: float = Field(
        30, gt=0, le=3600, description="Seconds until a request is cancelled"
    )
    max_in_flight: int = Field(
        256, ge=1, le=100_000, description="Concurrent requests per process; beyond it, 503"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("is empty; write * to accept every host")
        for host in value:
            if host != "*" and not is_host(host):
                raise ValueError(
                    f"{host} is not a host; write it as api.example.com or *.example.com, without"
                    " scheme, port or path"
                )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for proxy in value:
            if proxy == "*" and len(value) > 1:
                raise ValueError("* trusts every address; list it alone, or not at all")
            if proxy != "*" and not is_network(proxy):
                raise ValueError(
                    f"{proxy} is not an address or a network; write it as 10.0.0.7 or 10.0.0.0/8"
                )
        return value

    @field_validator("root_path")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError("is not a path; write it as /shop, with no slash at the end")
        if value.split("/")[:2][-1] in OWN_PATHS:  # with and without it, paths would look alike
            raise ValueError(f"begins like this service's own paths: {', '.join(OWN_PATHS)}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin != "*" and origin != (right := _as_browsers_send(origin)):
                raise ValueError(f"{origin} is not an origin; write it as {right}")
        return value

    @field_validator("cors_allow_credentials")
    @classmethod
    def _no_wildcard_with_credentials(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("cors_origins", ()):
            raise ValueError(
                "would let every site act as your users: list the origins in CORS_ORIGINS, not *"
            )
        return value


def _as_browsers_send(origin: str) -> str:
    """The ``Origin`` header that browsers send for ``origin``; an example if it is none."""
    url = split_url(origin, "http", "https")
    if url is None:
        return "https://app.example.com"
    default = {"http": 80, "https": 443}[url.scheme]
    port = f":{url.port}" if url.port and url.port != default else ""
    return f"{url.scheme}://{host_of(url)}{port}"
