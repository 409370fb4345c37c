"""Settings of the identity provider: whose tokens are believed, and what is read from them."""

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.platform import about
from app.platform.settings.sources import split_commas

Names = Annotated[list[str], NoDecode]

# Signatures that a public key checks. With any other, whoever can check a token can make one.
SIZES = (256, 384, 512)
ASYMMETRIC = {"EdDSA", *(f"{kind}{size}" for kind in ("RS", "PS", "ES") for size in SIZES)}


def _only_at_home(given: dict[str, str], value: str) -> str:
    """A default for development and tests, whose provider comes with the project."""
    return value if given.get("environment") in ("development", "test") else ""


class AuthSettings(BaseSettings):
    """One issuer, one audience."""

    oidc_issuer: str = Field(
        "", validate_default=True, description="Address of the provider, as it writes it itself"
    )
    oidc_audience: str = Field(
        default_factory=lambda given: _only_at_home(given, about.NAME),
        validate_default=True,
        description="Name of this API at the provider: what `aud` says in its tokens",
    )
    oidc_algorithms: Names = Field(
        ["RS256", "PS256", "ES256", "EdDSA"], description="Signatures that are accepted, by comma"
    )
    oidc_scope_claims: Names = Field(
        ["scope", "scp", "roles"],
        description="Claims that say what a caller may do, by comma; a.b is b inside of a",
    )
    oidc_token_max_age: int = Field(
        86_400, ge=60, description="Seconds after which a token is refused, whatever it says"
    )
    oidc_keys_max_age: int = Field(
        86_400, ge=600, description="Seconds that keys are used while the provider is away"
    )
    oidc_revocation_fail_open: bool = Field(
        True,
        description="While Redis is away: true, tokens that were revoked are not known; false, 503",
    )
    oidc_logout_clients: Names = Field(
        default_factory=lambda given: [name] if (name := _only_at_home(given, "docs")) else [],
        description="Clients whose back-channel logout ends tokens here, by comma",
    )
    oidc_client_id: str = Field(
        default_factory=lambda given: _only_at_home(given, "docs"),
        description="The docs page's client at the provider; empty, the page has no login",
    )
    oidc_login_parameters: str = Field(
        "",
        description="Added to the page's login address, such as audience=https://api.example.com",
    )

    _split = field_validator(
        "oidc_algorithms", "oidc_scope_claims", "oidc_logout_clients", mode="before"
    )(split_commas)

    @field_validator("oidc_issuer")
    @classmethod
    def _is_an_issuer(cls, value: str, info: ValidationInfo) -> str:
        environment = info.data.get("environment")
        if not value and environment != "test":
            raise ValueError("is missing: the address of the provider, https://login.example.com")
        url = urlsplit(value)
        if value and (
            url.scheme not in ("http", "https")
            or not url.hostname
            or url.query
            or url.fragment
            or url.username
        ):
            raise ValueError("is no issuer; write it as https://login.example.com/realms/main")
        if environment == "production" and url.scheme != "https":
            raise ValueError("has to begin with https://: who answers it decides who gets in")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _is_given(cls, value: str) -> str:
        if not value:
            raise ValueError("is missing: the name of this API at the provider")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _are_asymmetric(cls, value: list[str]) -> list[str]:
        if wrong := [name for name in value if name not in ASYMMETRIC]:
            raise ValueError(f"{wrong[0]} is none of {', '.join(sorted(ASYMMETRIC))}")
        if not value:
            raise ValueError("is empty; RS256 is what most providers use")
        return value

    @field_validator("oidc_client_id")
    @classmethod
    def _is_not_the_audience(cls, value: str, info: ValidationInfo) -> str:
        if value and value == info.data.get("oidc_audience"):
            raise ValueError(
                "is the same as OIDC_AUDIENCE, so that ID tokens would pass for access tokens:"
                " give the docs page a client of its own"
            )
        return value

    @field_validator("oidc_login_parameters")
    @classmethod
    def _are_parameters(cls, value: str) -> str:
        try:
            parse_qsl(value, strict_parsing=bool(value))
        except ValueError:
            raise ValueError("would be written as audience=x&prompt=login") from None
        return value
