"""Validation of tokens: access tokens that the provider signed for this API, and logout tokens.

RFC 9068 defines the type of an access token. Providers that predate it do not set the type, so that
other kinds of tokens are recognised by their claims and refused.
"""

import hashlib
from dataclasses import dataclass
from time import time
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import jwt

from app.platform.auth.discovery import KeyName
from app.platform.auth.identity import InvalidCredentials
from app.platform.auth.keys import Keys
from app.platform.auth.verified import VerifiedTokens
from app.platform.settings import PlatformSettings

LEEWAY = 10  # seconds of clock skew
MAX_TOKEN_LENGTH = 16_384  # characters; longer tokens are not parsed
ACCESS_TOKEN = ("at+jwt", "jwt", "")  # accepted values of `typ` in the header
LOGOUT_TOKEN = ("logout+jwt", "jwt", "")
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# Claims that only ID tokens have, OpenID Connect Core, sections 2 and 3.3.2.11.
ID_TOKEN_CLAIMS = ("nonce", "at_hash", "c_hash", "s_hash")
# Claims of Keycloak (`typ`) and Cognito (`token_use`) in other kinds of tokens.
NON_ACCESS_TOKEN_VALUES = {"typ": ("ID", "Refresh", "Offline", "Logout"), "token_use": ("id",)}

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """The claims of a valid access token.

    ``id`` identifies the token, ``subject_id`` the caller, ``session`` the session at the
    provider, which may be unknown. ``issued_at``: seconds since the epoch.
    """

    id: str
    subject_id: str
    session: str | None
    scopes: frozenset[str]
    issued_at: float


@dataclass(frozen=True, slots=True)
class _Verified:
    """The claims of a token, and the key that verified it."""

    key_name: KeyName
    key: jwt.PyJWK
    access: AccessClaims


@dataclass(frozen=True, slots=True)
class LogoutClaims:
    """The claims of a valid logout token: a subject whose tokens end, or one session."""

    subject_id: str | None
    session: str | None
    issued_at: float


class Tokens:
    """Validates tokens of the configured provider."""

    def __init__(self, settings: PlatformSettings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self._verified = VerifiedTokens[_Verified](LEEWAY)

    async def read_access(self, token: str) -> AccessClaims:
        """The claims of an access token.

        Raises ``InvalidCredentials`` if it is not valid, ``Unavailable`` without keys to verify it.
        """
        if access := await self._read_verified(token):
            return access
        required = ["iss", "aud", "sub", "exp", "iat"]
        audience = self._settings.oidc_audience
        claims, name, key = await self._read(token, ACCESS_TOKEN, [audience], required)
        if _is_not_an_access_token(claims):
            raise _invalid("use")
        issued_at = float(claims["iat"])
        if issued_at < time() - self._settings.oidc_token_max_age - LEEWAY:
            raise InvalidCredentials("old", "The access token is too old.")
        if not (subject := _text(claims["sub"])):
            raise _invalid("subject")
        access = AccessClaims(
            id=_token_id(token),
            subject_id=self._subject_id(subject),
            session=_text(claims.get("sid")),
            scopes=self._scopes(claims),
            issued_at=issued_at,
        )
        expires_at = min(float(claims["exp"]), issued_at + self._settings.oidc_token_max_age)
        self._verified.add(token, expires_at, _Verified(name, key, access))
        return access

    async def _read_verified(self, token: str) -> AccessClaims | None:
        """The claims of a token that was verified with a key that the provider still has."""
        verified = self._verified.get(token)
        if verified and await self._keys.get(*verified.key_name) is verified.key:
            return verified.access
        return None

    async def read_logout(self, token: str) -> LogoutClaims:
        """The claims of a logout token; raises like ``read_access``.

        https://openid.net/specs/openid-connect-backchannel-1_0.html, section 2.6
        """
        clients = self._settings.oidc_logout_clients
        required = ["iss", "aud", "iat", "exp", "events"]
        claims, _, _ = await self._read(token, LOGOUT_TOKEN, clients, required)
        subject, session = _text(claims.get("sub")), _text(claims.get("sid"))
        events = claims["events"]
        if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            raise _invalid("event")
        if "nonce" in claims or not (subject or session):
            raise _invalid("claims")
        return LogoutClaims(subject and self._subject_id(subject), session, float(claims["iat"]))

    async def _read(
        self, token: str, types: tuple[str, ...], audience: list[str], required: list[str]
    ) -> tuple[Claims, KeyName, jwt.PyJWK]:
        """The claims of a token, and the key that verified it."""
        try:
            algorithm, key_id = _header(token, types)
            if algorithm not in self._settings.oidc_algorithms:
                raise _invalid("algorithm")
            key = await self._keys.get(key_id, algorithm)
            if key is None:
                raise _invalid("key")
            claims: Claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._settings.oidc_issuer,
                audience=audience,
                leeway=LEEWAY,
                options={"require": required},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidCredentials("expired", "The token has expired.") from None
        except jwt.PyJWTError as error:
            raise _invalid(type(error).__name__) from None
        return claims, (key_id, algorithm), key

    def _subject_id(self, subject: str) -> str:
        """The id of a subject: a UUID of version 5 of issuer and subject."""
        return str(uuid5(NAMESPACE_URL, f"{self._settings.oidc_issuer}\n{subject}"))

    def _scopes(self, claims: Claims) -> frozenset[str]:
        """The scopes in all configured claims: lists, or words separated by spaces."""
        found: set[str] = set()
        for name in self._settings.oidc_scope_claims:
            value = _claim(claims, name)
            words = value.split() if isinstance(value, str) else value
            if isinstance(words, list):
                found.update(word for word in words if isinstance(word, str))
        return frozenset(found)


def _header(token: str, types: tuple[str, ...]) -> tuple[str, str]:
    """The algorithm and key id in a token's header, whose type must be one of ``types``."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise _invalid("length")
    header = jwt.get_unverified_header(token)
    algorithm, key_id, kind = (header.get(name, "") for name in ("alg", "kid", "typ"))
    if not (isinstance(algorithm, str) and isinstance(key_id, str) and isinstance(kind, str)):
        raise _invalid("header")
    if kind.lower().removeprefix("application/") not in types:
        raise _invalid("type")
    return algorithm, key_id


def _is_not_an_access_token(claims: Claims) -> bool:
    return any(claims.get(name) in uses for name, uses in NON_ACCESS_TOKEN_VALUES.items()) or any(
        name in claims for name in (*ID_TOKEN_CLAIMS, "events")
    )


def _token_id(token: str) -> str:
    """An id from the signed part alone: some signatures have several encodings."""
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def _claim(claims: Claims, name: str) -> Any:
    """A claim by its name or, for ``a.b``, claim ``b`` of the object ``a``."""
    if name in claims or "." not in name:
        return claims.get(name)
    first, _, rest = name.partition(".")
    inner = claims.get(first)
    return _claim(inner, rest) if isinstance(inner, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _invalid(reason: str) -> InvalidCredentials:
    return InvalidCredentials(reason, "The token is not valid.")
