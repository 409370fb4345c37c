"""Settings of the CDN in front of the service."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.http import is_host


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
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1")
        valid = parts.scheme == "https" or (parts.scheme == "http" and local)
        if url and not (valid and is_host(parts.hostname or "")):
            raise ValueError("write it as https://api.example.com/service/1/purge")
        return url
