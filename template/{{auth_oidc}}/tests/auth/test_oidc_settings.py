"""Settings of the provider that would let the wrong people in, or nobody, start nothing."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.required import REQUIRED

GIVEN: dict[str, Any] = {name.lower(): value for name, value in REQUIRED.items()}

WRONG = {
    "no issuer": ({"oidc_issuer": ""}, "is missing: the address of the provider"),
    "an issuer without TLS": ({"oidc_issuer": "http://login.example.com"}, "begin with https"),
    "an issuer that is a name": ({"oidc_issuer": "login.example.com"}, "is no issuer"),
    "another kind of address": ({"oidc_issuer": "file:///etc/passwd"}, "is no issuer"),
    "an issuer with a query": ({"oidc_issuer": "https://a.example?x=1"}, "is no issuer"),
    "an issuer with a login": ({"oidc_issuer": "https://me:x@a.example"}, "is no issuer"),
    "no audience": ({"oidc_audience": ""}, "is missing: the name of this API"),
    "no algorithm": ({"oidc_algorithms": ""}, "is empty"),
    "alg none": ({"oidc_algorithms": "RS256,none"}, "none is none of"),
    "a shared secret": ({"oidc_algorithms": "HS256"}, "HS256 is none of"),
    "a client that is the audience": (
        {"oidc_client_id": "https://api.example.com"},
        "ID tokens would pass for access tokens",
    ),
    "parameters that are none": ({"oidc_login_parameters": "audience"}, "audience=x&prompt=login"),
    "tokens for ever": ({"oidc_token_max_age": 0}, "greater than or equal to 60"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(**GIVEN | wrong)


def test_production_has_no_provider_of_its_own_and_no_client() -> None:
    settings = Settings(**GIVEN)

    assert settings.oidc_client_id == ""
    assert settings.oidc_logout_clients == []
    for name in ("oidc_issuer", "oidc_audience"):
        with pytest.raises(ValidationError, match="is missing"):
            Settings(**{key: value for key, value in GIVEN.items() if key != name})


def test_development_may_do_without_tls_but_not_without_a_provider() -> None:
    development = GIVEN | {"environment": "development"}

    assert Settings(**development | {"oidc_issuer": "http://127.0.0.1:8080/realms/a"}).oidc_issuer
    with pytest.raises(ValidationError, match="is missing"):
        Settings(**development | {"oidc_issuer": ""})


def test_lists_are_read_by_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ALGORITHMS", "ES256, EdDSA")
    monkeypatch.setenv("OIDC_SCOPE_CLAIMS", "permissions,realm_access.roles")
    monkeypatch.setenv("OIDC_LOGOUT_CLIENTS", "web, app")
    settings = Settings(**GIVEN)

    assert settings.oidc_algorithms == ["ES256", "EdDSA"]
    assert settings.oidc_scope_claims == ["permissions", "realm_access.roles"]
    assert settings.oidc_logout_clients == ["web", "app"]
