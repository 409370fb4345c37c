"""Settings of the CDN in front of the service."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.urls import split_url


class CdnSettings(BaseSettings):
    """The CDN, and access to its purge API."""

    cdn_provider: Literal["fastly", "cloudflare"] = Field(
        "fastly", description="The CDN, whose header and purge API are used: fastly or cloudflare"
    )
    cdn_purge_url: str = Field(
        "", description="URL of the CDN's purge API; unset: responses have no keys, nothing is sent"
    )
    cdn_purge_token: SecretStr = Field(
        SecretStr(""), description="API token that may purge by key, and nothing else"
    )

    @field_validator("cdn_purge_url")
    @classmethod
    def _is_purge_url(cls, url: str) -> str:
        parts = split_url(url, "http", "https")
        local = parts and parts.hostname in ("localhost", "127.0.0.1")
        if url and not (parts and (parts.scheme == "https" or local)):
            raise ValueError("write it as https://api.example.com/service/1/purge")
        return url
