"""Protection against cross-site request forgery, for requests that are authenticated by cookie.

A request with an unsafe method must come from this origin or one of ``CORS_ORIGINS``, according to
the browser, and have a token that only pages of those can read. The token is derived from the
session's id, so that it is valid for this session only.
https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

import base64
import hashlib
import hmac
from uuid import UUID

from starlette.requests import HTTPConnection

from app.platform.base import signing
from app.platform.base.errors import Forbidden
from app.platform.http import audit
from app.platform.settings import PlatformSettings

HEADER = "X-CSRF-Token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110


class Csrf:
    """Issues CSRF tokens, and refuses cross-site requests."""

    def __init__(self, settings: PlatformSettings) -> None:
        self._keys = signing.derive_keys(settings, "csrf token")
        self._trusted_origins = settings.cors_origins if settings.cors_allow_credentials else []

    def token(self, session_id: UUID) -> str:
        return _token(self._keys[0], session_id)

    def check(self, connection: HTTPConnection, session_id: UUID) -> None:
        """Raise ``Forbidden`` unless the request is from a trusted origin and has the token.

        Browsers cannot set headers of a WebSocket handshake: there the origin has to suffice.
        """
        if connection.scope.get("method") in SAFE_METHODS:
            return
        self.check_origin(connection)
        given = connection.headers.get(HEADER, "")
        valid = any(_equal(given, _token(key, session_id)) for key in self._keys)
        if connection.scope["type"] == "http" and not valid:
            audit.refused(connection, "csrf", "token")
            raise Forbidden(f"Send the header {HEADER}; GET /api/v1/auth/csrf returns its value.")

    def check_origin(self, connection: HTTPConnection) -> None:
        """Raise ``Forbidden`` if, according to the browser, a page of another site sent this."""
        if not self._is_trusted(connection):
            audit.refused(connection, "csrf", "site")
            raise Forbidden("Cross-site requests are not allowed.")

    def _is_trusted(self, connection: HTTPConnection) -> bool:
        origin = connection.headers.get("origin")
        if origin in self._trusted_origins:
            return True
        if site := connection.headers.get("sec-fetch-site"):
            return site in ("same-origin", "none")
        # Older browsers send only Origin; other clients send neither, and no cookie by accident.
        return origin is None or origin.partition("://")[2] == connection.headers.get("host")


def _token(key: bytes, session_id: UUID) -> str:
    digest = hmac.digest(key, session_id.bytes, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
