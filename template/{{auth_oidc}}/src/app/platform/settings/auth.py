"""Settings of the identity provider and of its access tokens."""

from urllib.parse import parse_qsl

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform import about
from app.platform.settings.core import DEPLOYED
from app.platform.settings.sources import CommaSeparated
from app.platform.settings.urls import split_url

# Algorithms with a public key. With a shared secret, whoever verifies tokens could also sign them.
ASYMMETRIC = {
    "EdDSA",
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)),
}


def _unless_production(data: dict[str, str], value: str) -> str:
    """A default for development and tests, which run the provider of ``app.platform.dev``."""
    return value if data.get("environment") in ("development", "test") else ""


class AuthSettings(BaseSettings):
    """One issuer and one audience, and how tokens are validated."""

    oidc_issuer: str = Field(
        "", validate_default=True, description="Issuer identifier, as in the provider's metadata"
    )
    oidc_audience: str = Field(
        default_factory=lambda data: _unless_production(data, about.NAME),
        validate_default=True,
        description="Audience of this API: the `aud` of its access tokens",
    )
    oidc_algorithms: CommaSeparated = Field(
        ["RS256", "PS256", "ES256", "EdDSA"],
        description="Accepted signature algorithms, comma-separated",
    )
    oidc_scope_claims: CommaSeparated = Field(
        ["scope", "scp", "roles"],
        description="Claims that hold scopes, comma-separated; a.b is claim b of object a",
    )
    oidc_token_max_age: int = Field(
        86_400,
        ge=60,
        le=31_536_000,
        description="Maximum age of a token in seconds, whatever its `exp`",
    )
    oidc_keys_max_age: int = Field(
        86_400,
        ge=600,
        le=31_536_000,
        description="Seconds to use cached keys while the provider is unavailable",
    )
    oidc_revocation_fail_open: bool = Field(
        True,
        description="While Redis is unavailable: true accepts revoked tokens, false answers 503",
    )
    oidc_logout_clients: CommaSeparated = Field(
        default_factory=lambda data: [id_] if (id_ := _unless_production(data, "docs")) else [],
        description="Client IDs accepted in back-channel logout tokens, comma-separated",
    )
    oidc_client_id: str = Field(
        default_factory=lambda data: _unless_production(data, "docs"),
        description="Client ID of the docs page; empty: the page has no login",
    )
    oidc_login_parameters: str = Field(
        "",
        description="Extra parameters of the docs page's authorization requests, such as"
        " audience=https://api.example.com",
    )

    @field_validator("oidc_issuer")
    @classmethod
    def _is_an_issuer(cls, value: str, info: ValidationInfo) -> str:
        environment = info.data.get("environment")
        if not value and environment != "test":
            raise ValueError("is missing: the provider's issuer, such as https://login.example.com")
        url = split_url(value, "http", "https")
        if value and (url is None or url.query or url.fragment or url.username):
            raise ValueError("is not an issuer; write it as https://login.example.com/realms/main")
        if environment in DEPLOYED and not value.lower().startswith("https:"):
            raise ValueError("must begin with https:// in production")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _is_set(cls, value: str) -> str:
        if not value:
            raise ValueError("is missing: the audience of this API at the provider")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _are_asymmetric(cls, value: list[str]) -> list[str]:
        if unknown := [name for name in value if name not in ASYMMETRIC]:
            raise ValueError(f"{unknown[0]} is none of {', '.join(sorted(ASYMMETRIC))}")
        if not value:
            raise ValueError("is empty; most providers use RS256")
        return value

    @field_validator("oidc_scope_claims")
    @classmethod
    def _are_claims(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("is empty; the claim is scope in RFC 9068")
        for claim in value:
            if not claim.strip(".") or ".." in f".{claim}.":
                raise ValueError(f"{claim} is not a claim; write it as scope, or as a.b for b of a")
        return value

    @field_validator("oidc_client_id")
    @classmethod
    def _is_not_the_audience(cls, value: str, info: ValidationInfo) -> str:
        if value and value == info.data.get("oidc_audience"):
            raise ValueError(
                "must differ from OIDC_AUDIENCE, or ID tokens would pass for access tokens:"
                " register a separate client for the docs page"
            )
        return value

    @field_validator("oidc_login_parameters")
    @classmethod
    def _are_parameters(cls, value: str) -> str:
        try:
            parse_qsl(value, strict_parsing=bool(value))
        except ValueError:
            raise ValueError("is not a query string; write it as audience=x&prompt=login") from None
        return value
