"""Invalid tokens, each for one reason."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Claims = dict[str, Any]

NOW = int(time.time())
EVENT = "http://schemas.openid.net/event/backchannel-logout"

# Signed by the provider, with claims that differ from a valid token's. None: without the claim.
WRONG_CLAIMS: dict[str, Claims] = {
    "expired": {"exp": NOW - 3600, "iat": NOW - 7200},
    "no expiry": {"exp": None},
    "issued tomorrow": {"iat": NOW + 86_400},
    "not yet valid": {"nbf": NOW + 3600},
    "valid for too long": {"iat": NOW - 90_000, "exp": NOW + 90_000},
    "no issue time": {"iat": None},
    "another audience": {"aud": "another"},
    "other audiences": {"aud": ["another", "a-third"]},
    "part of the audience": {"aud": "my"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "another issuer": {"iss": "https://login.example.com"},
    "issuer with a slash": {"iss": "http://127.0.0.1/"},
    "no issuer": {"iss": None},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a number as subject": {"sub": 7},
    "an ID token, by its nonce": {"nonce": "x"},
    "an ID token, by its hash": {"at_hash": "x"},
    "an ID token of Keycloak": {"typ": "ID"},
    "a refresh token of Keycloak": {"typ": "Refresh"},
    "an ID token of Cognito": {"token_use": "id"},
    "a logout token without its type": {"events": {EVENT: {}}},
}
WRONG_TYPES = ("logout+jwt", "dpop+jwt", "secevent+jwt", "application/secevent+jwt")


def claims_of(token: str) -> Claims:
    claims: Claims = jwt.decode(token, options={"verify_signature": False})
    return claims


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hmac_token(header: Claims, claims: Claims, key: bytes) -> str:
    """A token signed with HMAC-SHA256, whatever the header says."""
    text = f"{encode(header)}.{encode(claims)}"
    return f"{text}.{encode(hmac.digest(key, text.encode(), hashlib.sha256))}"


def forgeries(good: str, key_set: dict[str, Any]) -> dict[str, str]:
    """Forgeries by somebody who has a valid token and the provider's public keys."""
    header, payload, signature = good.split(".")
    head, claims = jwt.get_unverified_header(good), claims_of(good)
    [published] = key_set["keys"]
    public = jwt.PyJWK(published).key
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        **_signed_by_another_key(head, claims),
        "alg none": f"{encode({**head, 'alg': 'none'})}.{payload}.",
        "alg nOnE, signed": f"{encode({**head, 'alg': 'nOnE'})}.{payload}.{signature}",
        "no alg": f"{encode({'kid': head['kid']})}.{payload}.{signature}",
        "alg that is not a string": f"{encode({**head, 'alg': ['ES256']})}.{payload}.{signature}",
        "the public key as secret": hmac_token({**head, "alg": "HS256"}, claims, pem),
        "the published key as secret": hmac_token(
            {**head, "alg": "HS256"}, claims, json.dumps(published).encode()
        ),
        "an empty secret": hmac_token({**head, "alg": "HS256"}, claims, b""),
        "another algorithm": f"{encode({**head, 'alg': 'RS256'})}.{payload}.{signature}",
        "a critical extension": f"{encode({**head, 'crit': ['exp']})}.{payload}.{signature}",
        "claims changed": f"{header}.{encode({**claims, 'scope': 'admin'})}.{signature}",
        "no signature": f"{header}.{payload}.",
        "a signature of zeros": f"{header}.{payload}.{encode(bytes(64))}",
        "deeply nested": f"{encode(b'[' * 5000)}.{payload}.{signature}",
        "five parts": f"{good}.x.y",
    }


def _signed_by_another_key(head: Claims, claims: Claims) -> dict[str, str]:
    own_key = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.get_algorithm_by_name("ES256").to_jwk(own_key.public_key(), as_dict=True)
    no_kid = {name: value for name, value in head.items() if name != "kid"}
    headers = {
        "another key": head,
        "an unknown key id": {**head, "kid": "unknown"},
        "no key id": no_kid,
        "an embedded key": {**head, "jwk": jwk},
        "a key at another URL": {**head, "jku": "http://127.0.0.1:9/jwks", "kid": "elsewhere"},
        "a path as key id": {**head, "kid": "../../../dev/null"},
    }
    tokens = {
        name: jwt.encode(claims, own_key, "ES256", header) for name, header in headers.items()
    }
    rsa_key = rsa.generate_private_key(65537, 2048)
    return tokens | {
        "another key type": jwt.encode(claims, rsa_key, "RS256", {**head, "alg": "RS256"})
    }
