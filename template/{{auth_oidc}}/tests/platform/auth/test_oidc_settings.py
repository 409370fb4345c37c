"""Settings of the identity provider: insecure or incomplete ones are refused at startup."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.required import REQUIRED

REQUIRED_VALUES: dict[str, Any] = {name.lower(): value for name, value in REQUIRED.items()}

INVALID = {
    "no issuer": ({"oidc_issuer": ""}, "is missing: the provider's issuer"),
    "issuer without TLS": ({"oidc_issuer": "http://login.example.com"}, "begin with https"),
    "issuer without a scheme": ({"oidc_issuer": "login.example.com"}, "is not an issuer"),
    "issuer that is a file": ({"oidc_issuer": "file:///etc/passwd"}, "is not an issuer"),
    "issuer with a query": ({"oidc_issuer": "https://a.example?x=1"}, "is not an issuer"),
    "issuer with an invalid port": ({"oidc_issuer": "https://a.example:99999"}, "is not an issuer"),
    "issuer with an open bracket": ({"oidc_issuer": "https://[::1"}, "is not an issuer"),
    "issuer with credentials": ({"oidc_issuer": "https://me:x@a.example"}, "is not an issuer"),
    "no audience": ({"oidc_audience": ""}, "is missing: the audience of this API"),
    "no algorithms": ({"oidc_algorithms": ""}, "is empty"),
    "alg none": ({"oidc_algorithms": "RS256,none"}, "none is none of"),
    "symmetric algorithm": ({"oidc_algorithms": "HS256"}, "HS256 is none of"),
    "client ID equal to the audience": (
        {"oidc_client_id": "https://api.example.com"},
        "ID tokens would pass for access tokens",
    ),
    "invalid login parameters": ({"oidc_login_parameters": "audience"}, "audience=x&prompt=login"),
    "unlimited token age": ({"oidc_token_max_age": 0}, "greater than or equal to 60"),
}


@pytest.mark.parametrize(("values", "message"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_setting_is_refused_with_a_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**REQUIRED_VALUES | values)


def test_production_has_no_default_provider_and_no_docs_client() -> None:
    settings = Settings(**REQUIRED_VALUES)

    assert settings.oidc_client_id == ""
    assert settings.oidc_logout_clients == []
    for name in ("oidc_issuer", "oidc_audience"):
        with pytest.raises(ValidationError, match="is missing"):
            Settings(**{key: value for key, value in REQUIRED_VALUES.items() if key != name})


def test_development_allows_an_issuer_without_tls_but_requires_one() -> None:
    development = REQUIRED_VALUES | {"environment": "development"}

    assert Settings(**development | {"oidc_issuer": "http://127.0.0.1:8080/realms/a"}).oidc_issuer
    with pytest.raises(ValidationError, match="is missing"):
        Settings(**development | {"oidc_issuer": ""})


def test_valid_login_parameters_are_kept_as_they_are() -> None:
    given = "audience=x&prompt=login"
    assert Settings(**REQUIRED_VALUES, oidc_login_parameters=given).oidc_login_parameters == given


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ALGORITHMS", "ES256, EdDSA")
    monkeypatch.setenv("OIDC_SCOPE_CLAIMS", "permissions,realm_access.roles")
    monkeypatch.setenv("OIDC_LOGOUT_CLIENTS", "web, app")
    settings = Settings(**REQUIRED_VALUES)

    assert settings.oidc_algorithms == ["ES256", "EdDSA"]
    assert settings.oidc_scope_claims == ["permissions", "realm_access.roles"]
    assert settings.oidc_logout_clients == ["web", "app"]
