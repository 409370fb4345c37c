"""Invalid access tokens, each for one reason."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from hashlib import sha256, sha512
from typing import Any

import jwt

from app.platform import about
from app.platform.base import signing
from app.settings import Settings

Claims = dict[str, Any]
Forge = Callable[[Claims, Settings], str]


def claims_of(token: str) -> Claims:
    claims: Claims = jwt.decode(token, options={"verify_signature": False})
    return claims


def key_of(settings: Settings, purpose: str = "access token") -> bytes:
    return signing.derive_keys(settings, purpose)[0]


def sign(claims: Claims, key: bytes, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


def hmac_token(header: dict[str, str], claims: Claims, key: bytes, hash_: Any = sha256) -> str:
    """A token signed with HMAC, whatever the header says."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(key, text, hash_)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def without(claims: Claims, name: str) -> Claims:
    return {claim: value for claim, value in claims.items() if claim != name}


def swap_claims(token: str, claims: Claims) -> str:
    header, _, signature = token.split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{body}.{signature}"


FORGED: dict[str, Forge] = {
    "expired": lambda c, s: sign({**c, "exp": int(time.time()) - 10}, key_of(s)),
    "not yet issued": lambda c, s: sign({**c, "iat": int(time.time()) + 60}, key_of(s)),
    "another audience": lambda c, s: sign({**c, "aud": "another"}, key_of(s)),
    "several audiences": lambda c, s: sign({**c, "aud": [about.NAME, "another"]}, key_of(s)),
    "another issuer": lambda c, s: sign({**c, "iss": "another"}, key_of(s)),
    "another session": lambda c, s: sign({**c, "sid": c["sub"]}, key_of(s)),
    "another account": lambda c, s: sign({**c, "sub": c["sid"]}, key_of(s)),
    "no session": lambda c, s: sign(without(c, "sid"), key_of(s)),
    "no expiry": lambda c, s: sign(without(c, "exp"), key_of(s)),
    "no audience": lambda c, s: sign(without(c, "aud"), key_of(s)),
    "malformed ids": lambda c, s: sign({**c, "sid": "1 OR 1=1"}, key_of(s)),
    "a scope that is not a string": lambda c, s: sign({**c, "scope": ["admin"]}, key_of(s)),
    "the secret itself as key": lambda c, s: sign(c, s.secret_key.get_secret_value().encode()),
    "a key for something else": lambda c, s: sign(c, key_of(s, "refresh token")),
    "another key": lambda c, s: sign(c, b"0" * 32),
    "alg none": lambda c, s: jwt.encode(c, None, "none"),
    "alg none, signed": lambda c, s: hmac_token({"alg": "none", "typ": "JWT"}, c, key_of(s)),
    "another hash": lambda c, s: hmac_token({"alg": "HS512", "typ": "JWT"}, c, key_of(s), sha512),
    "key confusion": lambda c, s: hmac_token({"alg": "RS256", "typ": "JWT"}, c, key_of(s)),
    "claims changed": lambda c, s: swap_claims(sign(c, key_of(s)), {**c, "scope": "admin"}),
    "no signature": lambda c, s: sign(c, key_of(s)).rpartition(".")[0] + ".",
}


def forgeries(good: str, settings: Settings) -> dict[str, str]:
    claims = claims_of(good)
    assert sign(claims, key_of(settings)) == good  # so that each differs in one respect only
    return {name: forge(claims, settings) for name, forge in FORGED.items()}
