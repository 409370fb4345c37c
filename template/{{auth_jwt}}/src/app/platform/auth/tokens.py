"""Access and refresh tokens.

An access token is readable, so it holds ids and scopes only. A refresh token is opaque: the
session's id and a secret of 256 bits, signed. The signature proves that the token was issued, so a
token other than the session's current one has been used before.

Each secret is derived from the one before it, so that a repeated refresh can get the same tokens
again without any of them being stored.
"""

import hashlib
import hmac
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import jwt

from app.platform import about
from app.platform.auth.identity import InvalidCredentials
from app.platform.auth.sessions import SECRET_BYTES, hash_secret
from app.platform.auth.verified import VerifiedTokens
from app.platform.base import signing
from app.platform.settings import PlatformSettings

ALGORITHM = "HS256"
CLAIMS = ["iss", "aud", "exp", "iat", "jti", "sub", "sid", "scope"]
LEEWAY = 5  # seconds of clock skew


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """The claims of a valid access token."""

    account_id: UUID
    session_id: UUID
    scopes: frozenset[str]


class Tokens:
    """Issues and verifies tokens, each kind with a derived key of its own."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.lifetime = settings.access_token_lifetime
        self._access_keys = signing.derive_keys(settings, "access token")
        self._refresh_keys = signing.derive_keys(settings, "refresh token")
        self._rotation_keys = signing.derive_keys(settings, "refresh token rotation")
        self._verified = VerifiedTokens[AccessClaims](LEEWAY)

    def issue_access(self, access: AccessClaims, secret: bytes, issued_at: datetime) -> str:
        """The access token that belongs to a refresh token's ``secret``."""
        now = int(issued_at.timestamp())
        claims = {
            "iss": about.NAME,
            "aud": about.NAME,
            "iat": now,
            "exp": now + self.lifetime,
            "jti": hash_secret(secret)[:16].hex(),
            "sub": str(access.account_id),
            "sid": str(access.session_id),
            "scope": " ".join(sorted(access.scopes)),
        }
        return jwt.encode(claims, self._access_keys[0], ALGORITHM)

    def read_access(self, token: str) -> AccessClaims:
        """The claims of a token; raises ``InvalidCredentials`` if it is not valid."""
        if access := self._verified.get(token):
            return access
        try:
            claims = self._decode(token)
            scopes = frozenset(claims["scope"].split())
            access = AccessClaims(UUID(claims["sub"]), UUID(claims["sid"]), scopes)
        except jwt.ExpiredSignatureError:
            raise InvalidCredentials("expired", "The access token has expired.") from None
        except (
            jwt.PyJWTError,
            ValueError,
            AttributeError,
        ):  # AttributeError: a claim of another type
            raise InvalidCredentials("invalid", "The access token is not valid.") from None
        self._verified.add(token, float(claims["exp"]), access)
        return access

    def _decode(self, token: str) -> dict[str, Any]:
        *fallbacks, last = self._access_keys
        for key in fallbacks:
            with suppress(jwt.InvalidSignatureError):
                return _decode(token, key)
        return _decode(token, last)

    def next_secrets(self, session_id: UUID, secret: bytes) -> list[bytes]:
        """The successors of a used ``secret``: by the current key, then by the fallbacks."""
        text = session_id.bytes + secret
        return [hmac.digest(key, text, hashlib.sha256) for key in self._rotation_keys]

    def issue_refresh(self, session_id: UUID, secret: bytes) -> str:
        return signing.sign(self._refresh_keys, session_id.bytes + secret)

    def read_refresh(self, token: str) -> tuple[UUID, bytes]:
        """The session's id and the secret; raises ``ValueError`` if the token was never issued."""
        payload = signing.verify(self._refresh_keys, token)
        if len(payload) != 16 + SECRET_BYTES:
            raise ValueError("not a refresh token")
        return UUID(bytes=payload[:16]), payload[16:]


def _decode(token: str, key: bytes) -> dict[str, Any]:
    return jwt.decode(
        token,
        key,
        algorithms=[ALGORITHM],
        audience=about.NAME,
        issuer=about.NAME,
        leeway=LEEWAY,
        options={"require": CLAIMS, "strict_aud": True},
    )
