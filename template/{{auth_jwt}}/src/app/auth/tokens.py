"""What the tokens are made of.

An access token can be read by whoever has it, so it holds ids and scopes only. A refresh token is
opaque: the session's id and 256 random bits, sealed. The seal proves that a token was once issued,
so one that isn't the session's current one was used before, and somebody has a copy.
"""

import time
from dataclasses import dataclass
from uuid import UUID, uuid4

import jwt

from app.auth.identity import NotBelieved
from app.auth.sessions import SECRET
from app.platform import about
from app.platform.base import signing
from app.settings import Settings

ALGORITHM = "HS256"
CLAIMS = ["iss", "aud", "exp", "iat", "jti", "sub", "sid", "scope"]
LEEWAY = 5  # seconds that clocks may differ


@dataclass(frozen=True, slots=True)
class Access:
    """What a valid access token says."""

    account_id: UUID
    session_id: UUID
    scopes: frozenset[str]


class Tokens:
    """Issues and reads tokens, with keys that are good for nothing else."""

    def __init__(self, settings: Settings) -> None:
        self.lifetime = settings.access_token_lifetime
        self._access_key = signing.derive_key(settings, "access token")
        self._refresh_key = signing.derive_key(settings, "refresh token")

    def access(self, access: Access) -> str:
        now = int(time.time())
        claims = {
            "iss": about.NAME,
            "aud": about.NAME,
            "iat": now,
            "exp": now + self.lifetime,
            "jti": uuid4().hex,
            "sub": str(access.account_id),
            "sid": str(access.session_id),
            "scope": " ".join(sorted(access.scopes)),
        }
        return jwt.encode(claims, self._access_key, ALGORITHM)

    def read_access(self, token: str) -> Access:
        """Return what the token says; raise ``NotBelieved`` if it is not a good one of ours."""
        try:
            claims = jwt.decode(
                token,
                self._access_key,
                algorithms=[ALGORITHM],
                audience=about.NAME,
                issuer=about.NAME,
                leeway=LEEWAY,
                options={"require": CLAIMS, "strict_aud": True},
            )
            scopes = frozenset(claims["scope"].split())
            return Access(UUID(claims["sub"]), UUID(claims["sid"]), scopes)
        except jwt.ExpiredSignatureError:
            raise NotBelieved("expired", "The access token has expired.") from None
        except (jwt.PyJWTError, ValueError, AttributeError):  # the last: a claim of another type
            raise NotBelieved("invalid", "The access token is not valid.") from None

    def refresh(self, session_id: UUID, secret: bytes) -> str:
        return signing.sign(self._refresh_key, session_id.bytes + secret)

    def read_refresh(self, token: str) -> tuple[UUID, bytes]:
        """Return the session's id and the secret; raise ``ValueError`` if it was never issued."""
        payload = signing.verify(self._refresh_key, token)
        if len(payload) != 16 + SECRET:
            raise ValueError("not a refresh token")
        return UUID(bytes=payload[:16]), payload[16:]
