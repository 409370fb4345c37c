"""Settings of incoming HTTP: hosts, proxies, CORS, rate limits, request limits."""

import re

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.rates import OptionalRate, Rate
from app.platform.settings.sources import CommaSeparated

OWN_PATHS = ("api", "docs", "health", "metrics", "openapi.json")


class HttpSettings(BaseSettings):
    """Hosts, proxies, CORS, rate limits and request limits."""

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
        1, gt=0, description="Seconds to wait for Redis when counting a request"
    )

    max_body_size: int = Field(1_048_576, ge=1, description="Maximum bytes of a request body")
    request_timeout: float = Field(30, gt=0, description="Seconds until a request is cancelled")
    max_in_flight: int = Field(
        256, ge=1, description="Concurrent requests per process; beyond it, 503"
    )

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
            if origin != "*" and not re.fullmatch(r"https?://[^\s/*?#@]+", origin):
                raise ValueError(f"{origin} is not an origin; write it as https://app.example.com")
        return value

    @field_validator("cors_allow_credentials")
    @classmethod
    def _no_wildcard_with_credentials(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("cors_origins", ()):
            raise ValueError(
                "would let every site act as your users: list the origins in CORS_ORIGINS, not *"
            )
        return value
